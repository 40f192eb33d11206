//! Draws who hears whom as SVG: the measured frames, in the boxes of `macfence list --graph`. Pure:
//! the same measurement gives the same bytes.

use std::fmt::Write;

use crate::hearing::{Hearing, PARTIES, Party, SENDERS, Sender};
use crate::map::{Group, Map};

/// The host at one moment.
pub struct Panel {
    pub title: &'static str,
    pub subtitle: &'static str,
    pub hearing: Hearing,
    pub map: Map,
}

/// The frames that the picture shows, and their text in the legend.
const FRAMES: [(Sender, &str); 3] = [
    ((0, 0), "one-1 sends"),
    ((4, 4), "the router sends"),
    ((2, 4), "one-3 lies: “I am the router”"),
];

// Pixels. Each panel begins at x = 0.
const WIDTH: i32 = 840;
const HEIGHT: i32 = 396;
/// Space around the picture.
const MARGIN: i32 = 12;
const PANEL: i32 = 400;
const GAP: i32 = 40;
/// The horizontal middle of each party.
const MIDDLES: [i32; PARTIES.len()] = [51, 147, 253, 349, 200];
/// Half the width of a VM and of the router.
const HALF: i32 = 42;
const HALF_ROUTER: i32 = 72;
const TALL: i32 = 46;
const GROUP_TOP: i32 = 58;
const VM_TOP: i32 = 84;
const VM_BOTTOM: i32 = VM_TOP + TALL;
const GROUP_BOTTOM: i32 = VM_BOTTOM + 8;
const FENCE: i32 = 162;
const BRIDGE_TOP: i32 = 190;
const BRIDGE_BOTTOM: i32 = 272;
const ROUTER_TOP: i32 = 300;
const LEGEND: i32 = 384;

/// Draws panels side by side.
pub fn draw(panels: &[Panel]) -> String {
    let (width, height) = (WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"-{MARGIN} -{MARGIN} {width} {height}\" role=\"img\">\n\
         <!-- Drawn by make demo. -->\n<title>Who hears whom on a bridge</title>\n<style>\n{}</style>\n",
        include_str!("picture.css")
    );
    rect(&mut svg, "paper", [-MARGIN, -MARGIN, width, height]);
    for (panel, x) in panels.iter().zip((0..).step_by((PANEL + GAP) as usize)) {
        let _ = writeln!(svg, "<g transform=\"translate({x} 0)\">");
        panel.draw(&mut svg);
        svg += "</g>\n";
    }
    legend(&mut svg);
    svg + "</svg>\n"
}

impl Panel {
    fn draw(&self, svg: &mut String) {
        text(svg, "title", 0, 20, self.title);
        text(svg, "muted", 0, 42, self.subtitle);
        let height = BRIDGE_BOTTOM - BRIDGE_TOP;
        rect(svg, "bridge", [0, BRIDGE_TOP, PANEL, height]);
        text(svg, "small muted", 10, BRIDGE_BOTTOM - 9, &self.map.bridge);
        for group in &self.map.groups {
            draw_group(svg, group);
        }
        for (party, middle) in PARTIES.iter().zip(MIDDLES) {
            let is_trusted = |group: &Group| !group.trusted.is_empty();
            let (about, class) = match party.network {
                Some(network) => (format!("network {network}"), network.to_string()),
                None if self.map.groups.iter().any(is_trusted) => {
                    ("trusted".to_owned(), "router".to_owned())
                }
                None => (String::new(), "router".to_owned()),
            };
            let (top, half) = (top(party), half(party));
            rect(svg, &class, [middle - half, top, 2 * half, TALL]);
            let name = if about.is_empty() { top + 28 } else { top + 20 };
            text(svg, "name middle", middle, name, party.name);
            text(svg, "small middle", middle, top + 37, &about);
        }
        for lane in 0..FRAMES.len() {
            self.draw_frame(svg, lane);
        }
    }

    /// Draws the path of one frame: from its sender to the bridge, along the bridge, and to those
    /// who hear it.
    fn draw_frame(&self, svg: &mut String, lane: usize) {
        let (frame, _) = FRAMES[lane];
        let mut measured = SENDERS.iter().zip(&self.hearing);
        let (_, heard) = measured
            .find(|(sender, _)| **sender == frame)
            .expect("a frame");
        let y = BRIDGE_TOP + 14 + lane as i32 * 18;
        // Several frames pass a port side by side.
        let x = MIDDLES.map(|middle| middle + (lane as i32 - 1) * 20);
        let (sender, _) = frame;
        let (from, start) = (x[sender], door(sender));
        if heard.contains(&true) {
            let (left, right) = (x.iter().min().unwrap_or(&0), x.iter().max().unwrap_or(&0));
            path(
                svg,
                lane,
                &format!("M{from} {start}V{y}M{left} {y}H{right}"),
            );
            for listener in (0..PARTIES.len()).filter(|listener| *listener != sender) {
                let to = x[listener];
                if heard[listener] {
                    let end = door(listener);
                    let tail = if end < y { end + 9 } else { end - 9 };
                    path(svg, lane, &format!("M{to} {y}V{tail}"));
                    end_of(svg, lane, &format!("M{} {tail}h12L{to} {end}Z", to - 6));
                } else {
                    path(svg, lane, &format!("M{to} {y}V{FENCE}"));
                    dropped(svg, lane, to);
                }
            }
        } else {
            // The sender's own fence stops it.
            path(svg, lane, &format!("M{from} {start}V{FENCE}"));
            dropped(svg, lane, from);
        }
        let dot = format!("M{} {start}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z", from - 5);
        end_of(svg, lane, &dot);
    }
}

/// Draws a box of VMs, with the fences of their ports.
fn draw_group(svg: &mut String, group: &Group) {
    let places = PARTIES.iter().zip(MIDDLES);
    let members = places.filter(|(party, _)| group.vms.iter().any(|vm| vm == party.name));
    let middles: Vec<_> = members.map(|(_, middle)| middle).collect();
    let (Some(first), Some(last)) = (middles.first(), middles.last()) else {
        return;
    };
    let (left, right) = (first - HALF - 8, last + HALF + 8);
    let open = if group.is_open() { " open" } else { "" };
    let height = GROUP_BOTTOM - GROUP_TOP;
    rect(
        svg,
        &format!("box{open}"),
        [left, GROUP_TOP, right - left, height],
    );
    let class = format!("label middle{open}");
    text(
        svg,
        &class,
        (left + right) / 2,
        GROUP_TOP + 17,
        &group.label,
    );
    for middle in middles.iter().filter(|_| !group.is_open()) {
        rect(svg, "fence", [middle - HALF, FENCE - 3, 2 * HALF, 6]);
    }
}

fn half(party: &Party) -> i32 {
    party.network.map_or(HALF_ROUTER, |_| HALF)
}

fn top(party: &Party) -> i32 {
    party.network.map_or(ROUTER_TOP, |_| VM_TOP)
}

/// Returns the height at which frames leave and reach a party.
fn door(party: usize) -> i32 {
    PARTIES[party].network.map_or(ROUTER_TOP, |_| VM_BOTTOM)
}

fn legend(svg: &mut String) {
    let y = LEGEND - 4;
    for (lane, (x, (_, words))) in [0, 132, 290].into_iter().zip(FRAMES).enumerate() {
        path(svg, lane, &format!("M{} {y}H{}", x + 2, x + 28));
        text(svg, "", x + 36, LEGEND, words);
    }
    rect(svg, "fence", [552, y - 3, 28, 6]);
    text(svg, "", 588, LEGEND, "the fence of a port");
    let _ = writeln!(svg, "<path class=\"drop\" d=\"{}\"/>", cross(746, y));
    text(svg, "", 760, LEGEND, "dropped");
}

/// Marks the end of a frame at the fence of a port.
fn dropped(svg: &mut String, lane: usize, x: i32) {
    let cross = cross(x, FENCE);
    let _ = writeln!(svg, "<path class=\"halo\" d=\"{cross}\"/>");
    let _ = writeln!(svg, "<path class=\"drop f{lane}\" d=\"{cross}\"/>");
}

fn cross(x: i32, y: i32) -> String {
    format!("M{} {}l12 12m0 -12l-12 12", x - 6, y - 6)
}

/// Marks the start of a frame, or its arrival.
fn end_of(svg: &mut String, lane: usize, d: &str) {
    let _ = writeln!(svg, "<path class=\"end f{lane}\" d=\"{d}\"/>");
}

fn path(svg: &mut String, lane: usize, d: &str) {
    let _ = writeln!(svg, "<path class=\"frame f{lane}\" d=\"{d}\"/>");
}

fn rect(svg: &mut String, class: &str, [x, y, width, height]: [i32; 4]) {
    let round = if height > 10 { 6 } else { 2 };
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{round}\"/>"
    );
}

fn text(svg: &mut String, class: &str, x: i32, y: i32, words: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{words}</text>"
    );
}
