//! Formats the medians: a table for each part, with a column for each number of VMs. Pure.

use std::collections::BTreeSet;

use comfy_table::{CellAlignment, Table, presets};

use crate::figures::{Row, machine};

/// Describes the machine, then formats a table for each part.
pub fn tables(rows: &[Row]) -> String {
    let (_, measured) = rows.split_first().expect("a machine");
    let parts = distinct(measured.iter().map(|row| &row.figure.part));
    let table = |part: &String| {
        let of_part = measured.iter().filter(|row| row.figure.part == *part);
        format!(
            "\n{part}: medians\n{}\n",
            medians(&of_part.collect::<Vec<_>>())
        )
    };
    let tables: String = parts.into_iter().map(table).collect();
    format!("\n{}\n{tables}", machine(rows))
}

fn medians(rows: &[&Row]) -> String {
    let words = |row: &Row| {
        let figure = &row.figure;
        [&figure.what, &figure.way, &figure.measure].map(String::clone)
    };
    let sizes: BTreeSet<_> = rows.iter().map(|row| row.figure.vms).collect();
    let mut header = ["WHAT", "WAY", "MEASURE"].map(str::to_owned).to_vec();
    header.extend(sizes.iter().map(|size| format!("{size} VMs")));
    let lines = distinct(rows.iter().map(|row| words(row)));
    let lines = lines.into_iter().map(|line| {
        let cell = |size: &usize| {
            let is_here = |row: &&&Row| row.figure.vms == *size && words(row) == line;
            let row = rows.iter().find(is_here);
            row.map_or(String::new(), |row| number(row.median))
        };
        let cells = sizes.iter().map(cell).collect();
        [line.to_vec(), cells].concat()
    });
    aligned(&header, lines, 3)
}

/// Returns each item once, in order of first appearance.
fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in all {
        if !distinct.contains(&one) {
            distinct.push(one);
        }
    }
    distinct
}

/// Aligns columns. Those from `numbers` on are numbers and align to the right.
pub fn aligned(
    header: &[String],
    lines: impl IntoIterator<Item = Vec<String>>,
    numbers: usize,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for line in lines {
        table.add_row(line);
    }
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

/// Formats a number with its significant digits.
pub fn number(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}
