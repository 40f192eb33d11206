//! Draws the most important figures: a panel for each, and the legend in the last place. Pure,
//! except that it writes the file.

use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::combinators::{IntoLogRange, LogCoord};
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::figures::{Row, machine};
use crate::panels::{Colour, INK, MUTED, PANELS, PAPER, Panel, TOOLS, Tool};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, Y>>;

const SIZE: (u32, u32) = (840, 780);
/// Room for the axes, and at the right for the labels at the ends of lines.
const BOTTOM: u32 = 36;
const LEFT: u32 = 50;
const RIGHT: u32 = 128;
/// Distance between two lines of text.
const LEADING: i32 = 16;
/// The largest number of VMs in the bench. Labels at the ends of lines show its figures.
const MOST: f64 = 4000.0;

/// Draws the picture into a file.
pub fn draw(rows: &[Row], file: &Path) {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&PAPER.light).expect("a background");
        let cells = root.margin(4, 4, 6, 6).split_evenly((3, 2));
        for (panel, cell) in PANELS.iter().zip(&cells) {
            panel.draw(rows, cell, &root);
        }
        legend(rows, cells.last().expect("a place"));
        root.present().expect("bench.svg");
    }
    // Insert the style right after the opening tag.
    let at = svg.find(">\n").expect("a tag") + 2;
    svg.insert_str(at, &for_dark_pages());
    std::fs::write(file, svg).expect("bench.svg");
}

/// Returns a style that replaces each colour if the reader's page is dark. A style overrides the
/// colour attributes that plotters writes.
fn for_dark_pages() -> String {
    let colours = TOOLS
        .iter()
        .map(|tool| tool.colour)
        .chain([INK, MUTED, PAPER]);
    let rule = |colour: Colour| {
        let hex = |RGBColor(r, g, b): RGBColor| format!("#{r:02X}{g:02X}{b:02X}");
        let (light, dark) = (hex(colour.light), hex(colour.dark));
        format!(
            "[fill=\"{light}\"] {{ fill: {dark}; }} [stroke=\"{light}\"] {{ stroke: {dark}; }}\n"
        )
    };
    let rules: String = colours.map(rule).collect();
    format!("<style>\n@media (prefers-color-scheme: dark) {{\n{rules}}}\n</style>\n")
}

impl Panel {
    fn draw(&self, rows: &[Row], cell: &Area, root: &Area) {
        let lines = self.lines.iter().map(|line| {
            let of_line = rows.iter().filter(|row| line.is_about(row));
            of_line.map(|row| point(row, self.per_unit)).collect()
        });
        let lines: Vec<Vec<Point>> = lines.collect();
        let all = || lines.iter().flatten();
        let highest = all().map(|point| point.high).fold(0.0, f64::max);
        let lowest = all().map(|point| point.low).fold(highest, f64::min);
        let title = TextStyle::from(("sans-serif", 18).into_font().style(FontStyle::Bold));
        let title = title.color(&INK.light);
        cell.draw_text(self.title, &title, (6, 8)).expect("a title");
        let small = text(13, MUTED.light);
        cell.draw_text(self.axis, &small, (6, 30)).expect("an axis");
        let mut builder = ChartBuilder::on(cell);
        builder
            .margin_top(54)
            .margin_bottom(14)
            .margin_right(RIGHT)
            .x_label_area_size(BOTTOM)
            .y_label_area_size(LEFT);
        let vms = (1.0..MOST).log_scale();
        if self.is_logarithmic {
            let range = (lowest * 0.7..highest * 1.3).log_scale();
            let chart = builder.build_cartesian_2d(vms, range).expect("a chart");
            self.plot(chart, &lines, root);
        } else {
            let range = 0.0..highest * 1.1;
            let chart = builder.build_cartesian_2d(vms, range).expect("a chart");
            self.plot(chart, &lines, root);
        }
    }

    fn plot<Y>(&self, mut chart: Chart<Y>, lines: &[Vec<Point>], root: &Area)
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        chart
            .configure_mesh()
            .max_light_lines(0)
            .y_labels(6)
            .bold_line_style(INK.light.mix(0.12))
            .axis_style(INK.light.mix(0.4))
            .x_desc("VMs on the host")
            .x_label_formatter(&|vms| thousands(*vms))
            .y_label_formatter(&|number| thousands(*number))
            .label_style(text(14, MUTED.light))
            .axis_desc_style(text(14, MUTED.light))
            .draw()
            .expect("axes");
        let mut ends = Vec::new();
        for (line, points) in self.lines.iter().zip(lines) {
            let colour = TOOLS[line.tool].colour.light;
            let lows = points.iter().map(|point| (point.vms, point.low));
            let highs = points.iter().rev().map(|point| (point.vms, point.high));
            let band: Vec<_> = lows.chain(highs).collect();
            let band = Polygon::new(band, colour.mix(0.22));
            chart.draw_series([band]).expect("a band");
            let medians = points.iter().map(|point| (point.vms, point.median));
            let style = colour.stroke_width(2);
            if line.is_second {
                let dashes = DashedLineSeries::new(medians, 5, 4, style);
                chart.draw_series(dashes).expect("a line");
            } else {
                let series = LineSeries::new(medians, style.filled()).point_size(2);
                chart.draw_series(series).expect("a line");
            }
            let end = points.last().expect("figures");
            let (x, y) = chart.backend_coord(&(end.vms, end.median));
            let decimals = if end.median < 20.0 { self.decimals } else { 0 };
            let (unit, name) = (self.unit, line.label);
            let label = format!("{:.decimals$}{unit} {name}", end.median);
            ends.push((x + 7, y, label, colour));
        }
        // Move texts apart: they must overlap neither each other nor the axis.
        ends.sort_by_key(|(_, y, ..)| *y);
        let (_, floor) = chart.plotting_area().get_pixel_range();
        let mut below = floor.end + LEADING / 2;
        for (_, y, ..) in ends.iter_mut().rev() {
            *y = (*y).min(below - LEADING);
            below = *y;
        }
        for (x, y, label, colour) in ends {
            let style = text(15, colour).pos(Pos::new(HPos::Left, VPos::Center));
            root.draw_text(&label, &style, (x, y)).expect("a label");
        }
    }
}

/// Explains the colours, and names the machine.
fn legend(rows: &[Row], cell: &Area) {
    let mut y = 18;
    for Tool { name, colour } in TOOLS {
        let line = PathElement::new([(14, y), (42, y)], colour.light.stroke_width(3));
        cell.draw(&line).expect("a line");
        let style = text(16, INK.light).pos(Pos::new(HPos::Left, VPos::Center));
        cell.draw_text(name, &style, (52, y)).expect("a name");
        y += 20;
    }
    let machine = machine(rows);
    let words = [
        "Lines are medians. Half of the rounds lie in the band.",
        "The figure at a line's end is that with 4,000 VMs.",
        "Measured by make bench on",
    ];
    for line in words.into_iter().chain(machine.split("; ")) {
        cell.draw_text(line, &text(14, MUTED.light), (14, y))
            .expect("words");
        y += LEADING;
    }
}

/// The figures at one number of VMs.
struct Point {
    vms: f64,
    median: f64,
    low: f64,
    high: f64,
}

fn point(row: &Row, per_unit: f64) -> Point {
    Point {
        vms: row.figure.vms as f64,
        median: row.median / per_unit,
        low: row.low / per_unit,
        high: row.high / per_unit,
    }
}

/// plotters turns size 15 into 12 pixels.
fn text(size: i32, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour)
}

fn thousands(number: f64) -> String {
    match number {
        1000.0.. => format!(
            "{},{:03}",
            thousands((number / 1000.0).floor()),
            number % 1000.0
        ),
        _ => number.to_string(),
    }
}
