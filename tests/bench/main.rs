//! Measures what macfence costs on throwaway hosts, and compares it with what it replaces: the
//! seed's script, and `nft -f`. Prints tables, and writes `docs/bench.csv` and `docs/bench.svg`,
//! which is drawn from the CSV file.
//!
//! Figures are compared within one round, so that other load on the machine affects both sides.
//!
//! Arguments choose parts of the bench. Chosen parts are measured and printed, but not written to
//! `docs`: `cargo test --release --locked --quiet --test bench -- frame throughput`. The argument
//! `draw` draws the picture anew from `docs/bench.csv`.

#[path = "../lab/mod.rs"]
#[allow(dead_code, reason = "the tests use more of the lab")]
mod lab;

mod call;
mod figures;
mod fill;
mod filters;
mod frame;
mod large;
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

/// The name of a part of the bench, and the function that measures it.
type Part = (&'static str, fn(&mut Figures));

/// All parts, in the order in which they run.
const PARTS: [Part; 6] = [
    (frame::PART, frame::measure),
    (throughput::PART, throughput::measure),
    ("call", call::measure),
    ("fill", fill::measure),
    ("storm", storm::measure),
    (large::PART, large::measure),
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
            println!("Nothing was written, because only some parts were measured.");
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
