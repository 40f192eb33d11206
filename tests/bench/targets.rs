//! The targets for the figures. Pure.

use crate::call;
use crate::figures::Row;
use crate::fill;
use crate::filters::{NFT, SEED, TIMES_LAYOUT_0_1, TIMES_NFT, TIMES_NOBODY};
use crate::frame;
use crate::large;
use crate::table::{aligned, number};
use crate::throughput;

/// A limit for some figures.
struct Target {
    claim: &'static str,
    limit: Limit,
    /// The figures: part, work, program and measure. Empty means any.
    which: [&'static str; 4],
    /// Numbers of VMs. Empty means any.
    sizes: &'static [usize],
}

#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

const TARGETS: &[Target] = &[
    Target {
        claim: "a frame, compared with version 0.1's layout",
        limit: Limit::AtMost(1.1),
        which: [frame::PART, "", NFT, TIMES_LAYOUT_0_1],
        sizes: &[],
    },
    Target {
        claim: "a frame through the ebtables scripts' rules, compared with ours",
        limit: Limit::AtLeast(20.0),
        which: [frame::PART, "", SEED, TIMES_NFT],
        sizes: &[1000],
    },
    Target {
        claim: "TCP from VM to VM, compared with an unfiltered bridge",
        limit: Limit::AtLeast(0.95),
        which: [throughput::PART, throughput::TCP, NFT, TIMES_NOBODY],
        sizes: &[4000],
    },
    Target {
        claim: "UDP of 64 bytes from VM to VM, compared with an unfiltered bridge",
        limit: Limit::AtLeast(0.88),
        which: [throughput::PART, throughput::UDP, NFT, TIMES_NOBODY],
        sizes: &[4000],
    },
    Target {
        claim: "one-post of a new VM, compared with the script",
        limit: Limit::AtMost(0.5),
        which: [call::PART, call::POST_NEW, "", call::TIMES_SEED],
        sizes: &[10, 4000],
    },
    Target {
        claim: "one-post of a fenced VM, compared with the script",
        limit: Limit::AtMost(0.5),
        which: [call::PART, call::POST_SAME, "", call::TIMES_SEED],
        sizes: &[10, 4000],
    },
    Target {
        claim: "one-post of a new VM, compared with 10 VMs",
        limit: Limit::AtMost(4.0),
        which: [call::PART, call::POST_NEW, "", call::TIMES_SMALL],
        sizes: &[],
    },
    Target {
        claim: "one-post of a fenced VM, compared with 10 VMs",
        limit: Limit::AtMost(4.0),
        which: [call::PART, call::POST_SAME, "", call::TIMES_SMALL],
        sizes: &[],
    },
    Target {
        claim: "nft processes if something changes",
        limit: Limit::AtMost(3.0),
        which: [call::PART, call::POST_NEW, "", call::NFT_PROCESSES],
        sizes: &[],
    },
    Target {
        claim: "nft processes if nothing changes",
        limit: Limit::AtMost(3.0),
        which: [call::PART, call::POST_SAME, "", call::NFT_PROCESSES],
        sizes: &[],
    },
    Target {
        claim: "apply of a new VM, compared with the script",
        limit: Limit::AtMost(1.0),
        which: [call::PART, call::APPLY_NEW, "", call::TIMES_SEED],
        sizes: &[],
    },
    Target {
        claim: "apply of a fenced VM, compared with the script",
        limit: Limit::AtMost(1.0),
        which: [call::PART, call::APPLY_SAME, "", call::TIMES_SEED],
        sizes: &[],
    },
    Target {
        claim: "sync from nothing without the hypervisor, compared with nft -f",
        limit: Limit::AtMost(3.0),
        which: [fill::PART, fill::ALL, fill::SYNC, fill::TIMES_NFT],
        sizes: &[4000],
    },
    Target {
        claim: "changes of the ruleset by a sync with nothing to do",
        limit: Limit::AtMost(0.0),
        which: [fill::PART, fill::NOTHING, "", fill::WRITES],
        sizes: &[],
    },
    Target {
        claim: "ms from a new port to its fence with watch, more than with 10 VMs",
        limit: Limit::AtMost(100.0),
        which: [large::PART, large::ONE, "", large::MORE],
        sizes: &[],
    },
    Target {
        claim: "s until watch has fenced 200 VMs that start at once",
        limit: Limit::AtMost(3.0),
        which: [large::PART, large::BURST, "", large::SETTLED],
        sizes: &[],
    },
    Target {
        claim: "MB of memory in any command",
        limit: Limit::AtMost(64.0),
        which: ["", "", "", fill::PEAK],
        sizes: &[],
    },
];

impl Target {
    fn is_about(&self, row: &Row) -> bool {
        let figure = &row.figure;
        let fields = [&figure.part, &figure.what, &figure.way, &figure.measure];
        let mut fields = self.which.iter().zip(fields);
        fields.all(|(wanted, field)| wanted.is_empty() || wanted == field)
            && (self.sizes.is_empty() || self.sizes.contains(&figure.vms))
    }

    /// Returns one line for this target, with the figure that is furthest from it. `None` if no
    /// such figure was measured.
    fn line(&self, rows: &[Row]) -> Option<Vec<String>> {
        let rows = rows.iter().filter(|row| self.is_about(row));
        let by_median = |a: &&Row, b: &&Row| a.median.total_cmp(&b.median);
        let (words, limit, worst) = match self.limit {
            Limit::AtMost(limit) => ("at most", limit, rows.max_by(by_median)?),
            Limit::AtLeast(limit) => ("at least", limit, rows.min_by(by_median)?),
        };
        let is_reached = match self.limit {
            Limit::AtMost(limit) => worst.median <= limit,
            Limit::AtLeast(limit) => worst.median >= limit,
        };
        Some(vec![
            self.claim.to_owned(),
            format!("{words} {}", number(limit)),
            number(worst.median),
            format!("{} to {}", number(worst.low), number(worst.high)),
            worst.figure.vms.to_string(),
            if is_reached { "reached" } else { "not reached" }.to_owned(),
        ])
    }
}

/// Formats all targets, and tells which are reached.
pub fn table(rows: &[Row]) -> String {
    let header = ["TARGET", "LIMIT", "WORST", "HALF OF THE ROUNDS", "VMs", ""].map(str::to_owned);
    let lines = TARGETS.iter().filter_map(|target| target.line(rows));
    format!("\ntargets\n{}\n", aligned(&header, lines, usize::MAX))
}
