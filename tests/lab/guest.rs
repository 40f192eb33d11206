//! A guest that sends frames from its first instruction. A guest that first boots an operating
//! system sends nothing until its fence is long in place, so it cannot show that the fence came
//! first.

use std::process::Command;

use super::{Host, need};

const ROM: &str = "/run/guest.rom";

/// Makes the guests of this host's libvirt send these frames, again and again.
pub fn will_send(host: &Host, frames: &[Vec<u8>]) {
    let mut rom = program();
    let mut at = 0;
    for frame in frames {
        let length = (frame.len() as u32).to_le_bytes();
        for bytes in [&length[..], frame] {
            rom[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        }
    }
    host.run(|| std::fs::write(ROM, rom)).expect(ROM);
}

/// Assembles guest.s into a ROM of 64 KiB: room for frames, then the program.
fn program() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let run = |program: &str, args: &[&str]| {
        need(program);
        let mut command = Command::new(program);
        let status = command.args(args).current_dir(dir.path()).status();
        assert!(status.expect(program).success(), "{program} {args:?}");
    };
    std::fs::write(dir.path().join("guest.s"), include_str!("guest.s")).expect("the source");
    run("cc", &["-c", "guest.s"]);
    run(
        "objcopy",
        &["-O", "binary", "-j", ".text", "guest.o", "guest"],
    );
    std::fs::read(dir.path().join("guest")).expect("the program")
}

/// Returns the XML of a domain with such a guest and one NIC.
pub fn domain(name: &str, mac: &str, bridge: &str) -> String {
    let nic = format!(
        "<interface type='bridge'><mac address='{mac}'/><source bridge='{bridge}'/>\
         <model type='rtl8139'/><rom enabled='no'/>\
         <address type='pci' domain='0' bus='0' slot='5' function='0'/></interface>"
    );
    let loader = format!("<loader readonly='yes' type='rom'>{ROM}</loader>");
    super::libvirt::diskless(name, &loader, &nic)
}
