//! The picture of the figures that matter most. Pure, but for writing the file.

use std::path::Path;

use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;

use crate::figures::{Row, machine};
use crate::measure::WALL;
use crate::{call, fill, filters, frame};

const SIZE: (u32, u32) = (1260, 420);
const FONT: &str = "sans-serif";

/// Of one meaning in all panels: who does it.
const OURS: RGBColor = RGBColor(0x1b, 0x7f, 0x4b);
const OURS_TOO: RGBColor = RGBColor(0x6f, 0xbf, 0x8f);
const SEEDS: RGBColor = RGBColor(0xc0, 0x39, 0x2b);
const NEITHER: RGBColor = RGBColor(0x60, 0x66, 0x70);
const FALLBACK: RGBColor = RGBColor(0xe0, 0x8e, 0x2b);

/// A line: its name and colour, and the part, what, way and measure of its figures.
type Line = (&'static str, RGBColor, [&'static str; 4]);

struct Panel {
    title: &'static str,
    unit: &'static str,
    lines: &'static [Line],
}

const PANELS: [Panel; 3] = [
    Panel {
        title: "A forwarded frame",
        unit: "ns",
        lines: &[
            (
                "macfence on ebtables",
                FALLBACK,
                [frame::PART, frame::WHAT, filters::EBTABLES, frame::NS],
            ),
            (
                "the ebtables scripts' rules",
                SEEDS,
                [frame::PART, frame::WHAT, filters::SEED, frame::NS],
            ),
            (
                "macfence on nft",
                OURS,
                [frame::PART, frame::WHAT, filters::NFT, frame::NS],
            ),
            (
                "no filter",
                NEITHER,
                [frame::PART, frame::WHAT, filters::NOBODY, frame::NS],
            ),
        ],
    },
    Panel {
        title: "Fencing one more VM",
        unit: "ms",
        lines: &[
            (
                "the ebtables script, in sh",
                SEEDS,
                [call::PART, call::SCRIPT, call::SEED, WALL],
            ),
            (
                "macfence apply",
                OURS_TOO,
                [call::PART, call::APPLY_NEW, call::OURS, WALL],
            ),
            (
                "macfence hook one-post",
                OURS,
                [call::PART, call::POST_NEW, call::OURS, WALL],
            ),
        ],
    },
    Panel {
        title: "Fencing a whole host",
        unit: "ms",
        lines: &[
            (
                "macfence sync",
                OURS,
                [fill::PART, fill::ALL, fill::SYNC, fill::OWN],
            ),
            (
                "macfence sync, nothing to do",
                OURS_TOO,
                [fill::PART, fill::NOTHING, fill::SYNC, fill::OWN],
            ),
            (
                "nft -f of the same ruleset",
                NEITHER,
                [fill::PART, fill::ALL, fill::NFT, WALL],
            ),
        ],
    },
];

/// Draws it.
pub fn draw(rows: &[Row], file: &Path) {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    // A page may be dark.
    root.fill(&WHITE).expect("a background");
    let (panels, footer) = root.split_vertically(SIZE.1 - 28);
    for (panel, area) in PANELS.iter().zip(panels.split_evenly((1, PANELS.len()))) {
        panel.draw(rows, &area);
    }
    let words = format!("medians, by make bench; {}", machine(rows));
    let style = (FONT, 12).into_font().color(&NEITHER);
    footer.draw_text(&words, &style, (16, 4)).expect("a footer");
    root.present().expect("bench.svg");
}

impl Panel {
    fn draw(&self, rows: &[Row], area: &DrawingArea<SVGBackend, plotters::coord::Shift>) {
        let lines: Vec<_> = self
            .lines
            .iter()
            .map(|(.., which)| points(rows, which))
            .collect();
        let all = || lines.iter().flatten();
        let fold = |f: fn(f64, f64) -> f64, of: fn(&(f64, f64)) -> f64| {
            all().map(of).reduce(f).expect("figures")
        };
        let (fewest, most) = (fold(f64::min, |p| p.0), fold(f64::max, |p| p.0));
        let (least, highest) = (fold(f64::min, |p| p.1), fold(f64::max, |p| p.1));
        let bottom = decade(least);
        // On the left the legend needs room: a power of ten.
        let left = all().filter(|p| p.0 == fewest).map(|p| p.1);
        let left = left.reduce(f64::max).expect("figures");
        let top = (decade(highest) * 10.0).max(decade(left) * 100.0);
        let mut chart = ChartBuilder::on(area)
            .caption(format!("{}, {}", self.title, self.unit), (FONT, 17))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(62)
            .build_cartesian_2d((fewest..most * 1.2).log_scale(), (bottom..top).log_scale())
            .expect("a chart");
        chart
            .configure_mesh()
            .max_light_lines(1)
            .x_desc("VMs on the host")
            .x_label_formatter(&|vms| thousands(*vms))
            .y_label_formatter(&|number| thousands(*number))
            .label_style((FONT, 13))
            .draw()
            .expect("axes");
        for ((name, colour, _), points) in self.lines.iter().zip(&lines) {
            // So that it is seen below the seed's, which costs as much.
            let width = if *colour == FALLBACK { 5 } else { 2 };
            let style = colour.stroke_width(width);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))
                .expect("a line")
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .label_font((FONT, 13))
            .draw()
            .expect("a legend");
    }
}

/// The number of VMs and the median of each of these figures.
fn points(rows: &[Row], [part, what, way, measure]: &[&str; 4]) -> Vec<(f64, f64)> {
    let is_meant = |row: &&Row| {
        let figure = &row.figure;
        (&*figure.part, &*figure.what, &*figure.way, &*figure.measure)
            == (*part, *what, *way, *measure)
    };
    let point = |row: &Row| (row.figure.vms as f64, row.median);
    rows.iter().filter(is_meant).map(point).collect()
}

/// The power of ten that is not above a number.
fn decade(number: f64) -> f64 {
    10f64.powf(number.log10().floor())
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
