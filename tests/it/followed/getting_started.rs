//! `docs/getting-started.md`, but for its transcripts, which [`crate::pages`] plays, and its first step, for
//! which see [`crate::packages`].

use crate::lab::pages::commands;

#[test]
fn the_first_steps_with_libvirt_are_those_of_its_own_page() {
    // `crate::booted` follows that page.
    let install = commands("libvirt.md", "On each host").concat();
    let steps = commands(
        "getting-started.md",
        "5. Fence all VMs, now and when they start",
    );
    assert!(install.starts_with(&steps[0]), "{steps:?}");
}
