//! What macfence costs, measured on throwaway hosts beside what it replaces: the seed's script, and
//! `nft -f`. Ends with tables, `docs/bench.csv`, and `docs/bench.svg`, which is drawn from it.
//!
//! All is compared with what was measured in the same round, so that what else the machine does
//! falls on both sides.
//!
//! Arguments choose parts, which are then measured and printed, but not written to `docs`:
//! `cargo test --release --locked --quiet --test bench -- frame throughput`. The argument `draw` draws the
//! picture anew from `docs/bench.csv`.

#[path = "../lab/mod.rs"]
#[allow(dead_code, reason = "the tests need more of the lab")]
mod lab;

mod call;
mod figures;
mod fill;
mod filters;
mod frame;
mod layout;
mod measure;
mod panels;
mod picture;
mod processor;
mod programs;
mod raw;
mod storm;
mod table;
mod targets;
mod throughput;
mod turns;
mod vms;

use std::io::{Write, stdout};
use std::time::Instant;

use figures::Figures;

/// A part of the bench, and what measures it.
type Part = (&'static str, fn(&mut Figures));

/// What can be measured, in this order; arguments choose among it.
const PARTS: [Part; 5] = [
    (frame::PART, frame::measure),
    (throughput::PART, throughput::measure),
    ("call", call::measure),
    ("fill", fill::measure),
    ("storm", storm::measure),
];

/// Draws the picture anew and measures nothing.
const DRAW: &str = "draw";

fn main() {
    let docs = lab::source("docs");
    let (csv, svg) = (docs.join("bench.csv"), docs.join("bench.svg"));
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if asked != [DRAW] {
        let is_asked = |part: &str| asked.is_empty() || asked.iter().any(|word| word == part);
        let rows = measured(is_asked).rows();
        print!("{}", table::tables(&rows));
        print!("{}", targets::table(&rows));
        if !PARTS.iter().all(|(part, _)| is_asked(part)) {
            println!("Nothing was written, as not all was measured.");
            return;
        }
        std::fs::create_dir_all(&docs).expect("docs");
        std::fs::write(&csv, figures::to_csv(&rows)).expect("bench.csv");
        println!("Written: docs/bench.csv");
    }
    let rows = figures::from_csv(&std::fs::read_to_string(&csv).expect("bench.csv"));
    picture::draw(&rows, &svg);
    println!("Written: docs/bench.svg");
}

fn measured(is_asked: impl Fn(&str) -> bool) -> Figures {
    let mut figures = Figures::of_this_machine();
    for (part, measure) in PARTS.into_iter().filter(|(part, _)| is_asked(part)) {
        print!("measuring: {part}");
        stdout().flush().expect("standard output");
        let start = Instant::now();
        measure(&mut figures);
        println!(", {:.0} s", start.elapsed().as_secs_f64());
    }
    figures
}
