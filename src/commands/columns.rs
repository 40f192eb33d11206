//! The look of all tables that people read.

use std::ops::Range;

use comfy_table::{CellAlignment, Table, presets};

/// An empty table with this header. The columns `numbers` are aligned to the right.
pub fn columns<const N: usize>(header: [&str; N], numbers: Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for column in table
        .column_iter_mut()
        .take(numbers.end)
        .skip(numbers.start)
    {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
