//! A whole Debian 12 with systemd, AppArmor and libvirt, booted: what a network namespace cannot show.

use crate::lab::booted;

#[test]
#[ignore = "a minute: for those who work on the rig itself"]
fn a_script_runs_as_root_in_a_booted_debian_whose_libvirtd_is_confined() {
    let ran = booted::run(
        &[],
        "id -u; cat /sys/kernel/security/apparmor/profiles; exit 3",
    );
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(ran.stdout.starts_with("0\n"), "{ran:?}");
    assert!(ran.stdout.contains("libvirtd (enforce)"), "{ran:?}");
}
