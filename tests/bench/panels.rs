//! The content of the picture: tools, their colours, and the figures of each panel. Pure.

use plotters::style::RGBColor;

use crate::figures::Row;
use crate::measure::WALL;
use crate::{call, fill, filters, frame, throughput};

/// A colour on a light page and on a dark one.
#[derive(Clone, Copy)]
pub struct Colour {
    pub light: RGBColor,
    pub dark: RGBColor,
}

const fn colour(light: u32, dark: u32) -> Colour {
    Colour {
        light: rgb(light),
        dark: rgb(dark),
    }
}

const fn rgb(hex: u32) -> RGBColor {
    let [_, r, g, b] = hex.to_be_bytes();
    RGBColor(r, g, b)
}

pub const PAPER: Colour = colour(0xffffff, 0x0d1117);
pub const INK: Colour = colour(0x1f2328, 0xe6edf3);
pub const MUTED: Colour = colour(0x57606a, 0x9198a1);

/// A tool. It has the same colour in all panels.
pub struct Tool {
    pub name: &'static str,
    pub colour: Colour,
}

const OURS: usize = 0;
const FALLBACK: usize = 1;
const SCRIPTS: usize = 2;
const NFT: usize = 3;
const NOBODY: usize = 4;

pub const TOOLS: [Tool; 5] = [
    Tool {
        name: "macfence on nft",
        colour: colour(0x1a7f37, 0x3fb950),
    },
    Tool {
        name: "macfence on ebtables",
        colour: colour(0xbc6c00, 0xe3a13a),
    },
    Tool {
        name: "the ebtables scripts' rules",
        colour: colour(0xcf222e, 0xff7b72),
    },
    Tool {
        name: "nft, given the same rules",
        colour: colour(0x0969da, 0x58a6ff),
    },
    Tool {
        name: "no filter",
        colour: colour(0x6e7781, 0x8b949e),
    },
];

/// One tool's figures, by number of VMs.
pub struct Line {
    pub tool: usize,
    /// Text at the line's end, after the figure.
    pub label: &'static str,
    /// True for a tool's second line in a panel. It is dashed.
    pub is_second: bool,
    /// The part, what, way and measure of its figures.
    which: [&'static str; 4],
}

impl Line {
    pub fn is_about(&self, row: &Row) -> bool {
        let figure = &row.figure;
        self.which == [&*figure.part, &*figure.what, &*figure.way, &*figure.measure]
    }
}

pub struct Panel {
    pub title: &'static str,
    /// Label of the vertical axis.
    pub axis: &'static str,
    pub unit: &'static str,
    /// Number of measured units in one unit of the axis.
    pub per_unit: f64,
    /// Decimals of figures below 20.
    pub decimals: usize,
    pub is_logarithmic: bool,
    pub lines: &'static [Line],
}

const fn line(tool: usize, label: &'static str, which: [&'static str; 4]) -> Line {
    Line {
        tool,
        label,
        is_second: false,
        which,
    }
}

const fn second(line: Line) -> Line {
    Line {
        is_second: true,
        ..line
    }
}

/// Returns one line per filter, for frames that pass it.
const fn filters(part: &'static str, what: &'static str, measure: &'static str) -> [Line; 4] {
    [
        line(SCRIPTS, "scripts", [part, what, filters::SEED, measure]),
        line(
            FALLBACK,
            "on ebtables",
            [part, what, filters::EBTABLES, measure],
        ),
        line(OURS, "macfence", [part, what, filters::NFT, measure]),
        line(NOBODY, "no filter", [part, what, filters::NOBODY, measure]),
    ]
}

pub const PANELS: [Panel; 5] = [
    Panel {
        title: "A forwarded frame",
        axis: "microseconds (logarithmic); less is better",
        unit: " µs",
        per_unit: 1000.0,
        decimals: 1,
        is_logarithmic: true,
        lines: &filters(frame::PART, frame::WHAT, frame::NS),
    },
    Panel {
        title: "Fencing one more VM",
        axis: "milliseconds; less is better",
        unit: " ms",
        per_unit: 1.0,
        decimals: 0,
        is_logarithmic: false,
        lines: &[
            line(
                SCRIPTS,
                "script",
                [call::PART, call::SCRIPT, call::SEED, WALL],
            ),
            second(line(
                OURS,
                "apply",
                [call::PART, call::APPLY_NEW, call::OURS, WALL],
            )),
            line(
                OURS,
                "one-post",
                [call::PART, call::POST_NEW, call::OURS, WALL],
            ),
        ],
    },
    Panel {
        title: "TCP from VM to VM",
        axis: "Gbit/s; more is better",
        unit: " Gbit/s",
        per_unit: 1.0,
        decimals: 1,
        is_logarithmic: false,
        lines: &filters(throughput::PART, throughput::TCP, throughput::GIGABITS),
    },
    Panel {
        title: "UDP with 64 bytes from VM to VM",
        axis: "thousand datagrams per second; more is better",
        unit: "k/s",
        per_unit: 1000.0,
        decimals: 1,
        is_logarithmic: false,
        lines: &filters(throughput::PART, throughput::UDP, throughput::DATAGRAMS),
    },
    Panel {
        title: "Fencing a whole host",
        axis: "seconds (logarithmic); less is better",
        unit: " s",
        per_unit: 1000.0,
        decimals: 2,
        is_logarithmic: true,
        lines: &[
            line(OURS, "sync", [fill::PART, fill::ALL, fill::SYNC, fill::OWN]),
            second(line(
                OURS,
                "nothing to do",
                [fill::PART, fill::NOTHING, fill::SYNC, fill::OWN],
            )),
            line(NFT, "nft -f", [fill::PART, fill::ALL, fill::NFT, WALL]),
        ],
    },
];
