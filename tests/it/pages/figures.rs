//! The tables of `docs/performance.md` match the bench's figures. `INSTA_UPDATE=always` writes them
//! anew.

use super::page;
use super::transcripts::is_or_becomes;

/// A row: its name, and its figures by part, what, way and measure.
type Row = (&'static str, [&'static str; 4]);

struct Table {
    /// The heading of the first column.
    head: &'static str,
    sizes: &'static [usize],
    /// Figures are divided by this.
    unit: f64,
    /// The rounding of figures.
    round: Rounding,
    rows: &'static [Row],
}

#[derive(Clone, Copy)]
enum Rounding {
    /// Three digits, with at most two after the point.
    Digits,
    /// Two digits after the point.
    Hundredths,
    /// Whole numbers.
    Whole,
}

const NFT: &str = "macfence on nft";
const EBTABLES: &str = "macfence on ebtables";
const SCRIPTS: &str = "the ebtables scripts' rules";
const SHARE: &str = "times no filter";
const UDP: &str = "UDP of 64 bytes";
const WALL: &str = "wall ms";
const OWN: &str = "wall ms without the hypervisor";
const START: &str = "a VM that starts";
const GUARDED: &str = "macfence on nft guarding addresses";

const TABLES: [Table; 5] = [
    Table {
        head: "fenced VMs, frame in µs",
        sizes: &[1, 10, 100, 1000, 4000],
        unit: 1000.0,
        round: Rounding::Digits,
        rows: &[
            ("no filter", ["frame", "forwarded", "no filter", "ns"]),
            (NFT, ["frame", "forwarded", NFT, "ns"]),
            (
                "macfence on nft, guarding addresses",
                ["frame", "forwarded", GUARDED, "ns"],
            ),
            (EBTABLES, ["frame", "forwarded", EBTABLES, "ns"]),
            ("the scripts", ["frame", "forwarded", SCRIPTS, "ns"]),
        ],
    },
    Table {
        head: "fenced VMs, share",
        sizes: &[1, 100, 1000, 4000],
        unit: 1.0,
        round: Rounding::Hundredths,
        rows: &[
            ("TCP, macfence on nft", ["throughput", "TCP", NFT, SHARE]),
            (
                "TCP, macfence on ebtables",
                ["throughput", "TCP", EBTABLES, SHARE],
            ),
            ("TCP, the scripts", ["throughput", "TCP", SCRIPTS, SHARE]),
            (
                "UDP with 64 bytes, macfence on nft",
                ["throughput", UDP, NFT, SHARE],
            ),
            (
                "UDP with 64 bytes, macfence on ebtables",
                ["throughput", UDP, EBTABLES, SHARE],
            ),
            (
                "UDP with 64 bytes, the scripts",
                ["throughput", UDP, SCRIPTS, SHARE],
            ),
        ],
    },
    Table {
        head: "fenced VMs, call in ms",
        sizes: &[10, 1000, 4000],
        unit: 1.0,
        round: Rounding::Whole,
        rows: &[
            (
                "OpenNebula's hook for a new VM (`one-post`)",
                ["call", "one-post of a new VM", "macfence", WALL],
            ),
            (
                "the same for a VM that is fenced already",
                ["call", "one-post of a fenced VM", "macfence", WALL],
            ),
            (
                "`apply` of a new VM, asking libvirt",
                ["call", "apply of a new VM", "macfence", WALL],
            ),
            (
                "`apply` of a fenced VM, asking libvirt",
                ["call", "apply of a fenced VM", "macfence", WALL],
            ),
            ("`remove`", ["call", "remove", "macfence", WALL]),
            (
                "the script for a new VM, asking libvirt",
                ["call", "a new VM", "the ebtables script", WALL],
            ),
            (
                "`flush` with nothing to do",
                ["call", "flush with nothing to do", "macfence", WALL],
            ),
            ("`list`", ["call", "list", "macfence", WALL]),
            ("`check`", ["call", "check", "macfence", WALL]),
        ],
    },
    Table {
        head: "VMs, `sync` in ms",
        sizes: &[10, 100, 1000, 4000],
        unit: 1.0,
        round: Rounding::Whole,
        rows: &[
            (
                "from nothing",
                ["fill", "from nothing", "macfence sync", OWN],
            ),
            (
                "with one VM changed",
                ["fill", "with one VM changed", "macfence sync", OWN],
            ),
            (
                "with nothing to do",
                ["fill", "with nothing to do", "macfence sync", OWN],
            ),
            (
                "`nft -f` of the same rules, for comparison",
                ["fill", "from nothing", "nft -f", WALL],
            ),
        ],
    },
    Table {
        head: "running domains, ms",
        sizes: &[10, 1000],
        unit: 1.0,
        round: Rounding::Whole,
        rows: &[
            (
                "from a new port to its fence",
                ["large", START, "macfence", "ms from port to fence"],
            ),
            (
                "of that, two virsh that list the domains",
                ["large", START, "macfence", "ms of two virsh that list"],
            ),
        ],
    },
];

/// Formats a number with commas between thousands.
fn thousands(number: usize) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", number / 1000, number % 1000),
    }
}

impl Table {
    /// Builds the table of the page from the lines of `bench.csv`.
    fn drawn(&self, csv: &str) -> Vec<String> {
        let sizes = self
            .sizes
            .iter()
            .map(|size| format!(" {} |", thousands(*size)));
        let columns = self.sizes.len() + 1;
        let mut lines = vec![
            format!("| {} |{}", self.head, sizes.collect::<String>()),
            format!("|{}", "---|".repeat(columns)),
        ];
        for (name, [part, what, way, measure]) in self.rows {
            let cells = self.sizes.iter().map(|size| {
                let start = format!("{part},{what},{way},{size},{measure},");
                let mut found = csv.lines().filter_map(|line| line.strip_prefix(&start));
                let row = found.next().unwrap_or_else(|| panic!("{start}"));
                let median: f64 = row.split(',').nth(1).unwrap().parse().unwrap();
                let digits = match (self.round, median / self.unit) {
                    (Rounding::Whole, _) | (Rounding::Digits, 100.0..) => 0,
                    (Rounding::Digits, 10.0..) => 1,
                    _ => 2,
                };
                format!(" {:.digits$} |", median / self.unit)
            });
            lines.push(format!("| {name} |{}", cells.collect::<String>()));
        }
        lines
    }
}

#[test]
fn the_figures_of_the_page_are_those_of_the_bench() {
    let (text, csv) = (page("docs/performance.md"), page("docs/bench.csv"));
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    for table in TABLES {
        let drawn = table.drawn(&csv);
        let head = format!("| {} |", table.head);
        let start = lines.iter().position(|line| line.starts_with(&head));
        let start = start.expect(table.head);
        let len = lines[start..].iter().take_while(|line| !line.is_empty());
        let end = start + len.count();
        lines.splice(start..end, drawn);
    }
    is_or_becomes("docs/performance.md", &text, &(lines.join("\n") + "\n"));
}
