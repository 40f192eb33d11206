//! Reads `macfence list --graph`: which VMs share a box, and whom each box trusts. Pure.

use crate::hearing::Party;

/// VMs that hear each other: a box of the graph.
pub struct Group {
    /// The box's title.
    pub label: String,
    /// The VMs' names.
    pub vms: Vec<String>,
    /// The addresses that the VMs trust.
    pub trusted: Vec<String>,
    cluster: String,
}

/// The map of one bridge.
pub struct Map {
    /// The bridge's title.
    pub bridge: String,
    pub groups: Vec<Group>,
}

impl Group {
    /// Returns true if the VMs have no fences and hear everybody.
    pub fn is_open(&self) -> bool {
        self.label == "not fenced"
    }
}

impl Map {
    /// Reads the output of macfence. It does not parse graphs of other programs.
    pub fn read(dot: &str) -> Self {
        let (mut bridge, mut groups, mut trusted) =
            (String::new(), Vec::<Group>::new(), Vec::new());
        let mut cluster = String::new();
        for line in dot.lines().map(str::trim) {
            let words = quoted(line);
            let id = line.split(' ').next().unwrap_or_default();
            match id.chars().next() {
                Some('s') => cluster = line.split(' ').nth(1).expect(line).to_owned(),
                Some('l') if bridge.is_empty() => bridge = words.concat(),
                Some('l') => groups.push(Group {
                    label: words.concat(),
                    vms: Vec::new(),
                    trusted: Vec::new(),
                    cluster: cluster.clone(),
                }),
                Some('n') => groups.last_mut().expect(line).vms.push(words[0].to_owned()),
                Some('t') if !words.is_empty() => {
                    trusted.push((id.to_owned(), words[1].to_owned()))
                }
                Some('t') => {
                    let (_, who) = trusted.iter().find(|(known, _)| known == id).expect(line);
                    let hears = |group: &&mut Group| line.contains(&format!("={}]", group.cluster));
                    let group = groups.iter_mut().find(hears).expect(line);
                    group.trusted.push(who.clone());
                }
                _ => {}
            }
        }
        Self { bridge, groups }
    }

    /// Tells whether a VM hears a party: one in its box, or one that it trusts.
    pub fn hears(&self, vm: &str, sender: &Party) -> bool {
        let own = self
            .groups
            .iter()
            .find(|group| group.vms.iter().any(|member| member == vm));
        own.is_some_and(|group| {
            let hears_anyway =
                group.is_open() || group.trusted.iter().any(|who| who.starts_with(sender.mac));
            hears_anyway || group.vms.iter().any(|member| member == sender.name)
        })
    }
}

/// Returns the lines of a label.
fn quoted(line: &str) -> Vec<&str> {
    let label = line
        .split("label=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    label.map_or(Vec::new(), |label| label.split("\\n").collect())
}
