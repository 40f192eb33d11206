//! Finds the VMs that `bridges` leaves out.

use std::collections::{BTreeMap, BTreeSet};

use super::Survey;
use super::entry::{Cause, Entry, Open};
use crate::compare::{Finding, State};
use crate::vm::VmName;

impl Survey {
    /// Finds the VMs that the configuration leaves alone, of which some may still have a fence.
    pub(super) fn find_skipped(&mut self, open: &Open) {
        let is_left_out = |entry: &Entry| {
            let (Some(vm), Some(port)) = (&entry.vm, &entry.port) else {
                return false;
            };
            let why = open.get(&(vm, port.clone()));
            why.is_some_and(|(cause, _)| *cause == Cause::Configuration)
        };
        let mut skipped: BTreeMap<&VmName, Vec<String>> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| is_left_out(entry)) {
            if let Some(vm) = &entry.vm {
                let still = if entry.held.is_some() {
                    "; still fenced"
                } else {
                    ""
                };
                let detail = format!("{}{still}", entry.words());
                skipped.entry(vm).or_default().push(detail);
            }
        }
        let skipped = skipped.into_iter().map(|(vm, detail)| Finding {
            vm: Some(vm.clone()),
            state: State::Skipped,
            detail,
        });
        self.skipped = skipped.collect();
        let mut held = Vec::from_iter(self.entries.iter().filter(|entry| entry.held.is_some()));
        held.retain(|entry| !is_left_out(entry));
        let fenced: BTreeSet<_> = held.iter().map(|entry| &entry.vm).collect();
        let skipped: BTreeMap<_, _> = self
            .skipped
            .iter()
            .map(|found| (&found.vm, found))
            .collect();
        for found in &mut self.findings {
            let Some(skipped) = skipped.get(&found.vm) else {
                continue;
            };
            found.detail.extend(skipped.detail.iter().cloned());
            if found.state == State::Ok && !fenced.contains(&found.vm) {
                found.state = State::Skipped;
            }
        }
    }
}
