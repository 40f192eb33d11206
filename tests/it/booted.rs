//! libvirt's hook in a whole Debian 12, booted: with AppArmor enforced, systemd, and VMs that run.
//! `docs/libvirt.md` is followed literally.

use std::path::Path;

use crate::lab::pages::commands;
use crate::lab::{MACFENCE, booted, source};

/// What the script is made of: `@...@` are commands of the page.
const SCRIPT: &str = r#"
# A step that must succeed.
step() { echo "[$(cut -d' ' -f1 /proc/uptime)] $*" >&2; }
fail() { echo "FAILED: $*" >&2; exit 1; }
# All of /etc that a hook has to do with, and what AppArmor allows.
etc() {
  find /etc/libvirt/hooks /etc/apparmor.d -printf '%M %u %g %p %l\n' | sort
  find /etc/libvirt/hooks /etc/apparmor.d -type f | sort | xargs md5sum
  ls /sys/kernel/security/apparmor/policy/profiles | sed 's/\.[0-9]*$//' | sort
  allowed
}
# Whether AppArmor lets libvirtd run macfence now.
allowed() {
  sh -c 'printf "changeprofile libvirtd" >/proc/self/attr/current; exec /usr/local/sbin/macfence --version' \
    >/dev/null 2>&1 && echo macfence is allowed || echo macfence is not allowed
}
# Names and processes of the VMs that run.
running() {
  for pid in /var/run/libvirt/qemu/one-*.pid; do
    vm=$(basename "$pid" .pid)
    [ "$(virsh -q domstate "$vm")" = running ] && [ -e "/proc/$(cat "$pid")" ] && echo "$vm $(cat "$pid")"
  done
}
fenced() {
  macfence list --json | grep -o '"vm":"[^"]*"' | cut -d'"' -f4 | sort -u | while read -r vm; do
    nft list table bridge macfence 2>/dev/null | grep -q "chain vm-$vm " && echo "$vm"
  done
}
# A guest without a profile of its own, which takes seconds to compile.
vm() {
  cat >"$1.xml" <<END
<domain type='qemu'><name>$1</name><memory unit='MiB'>8</memory><on_crash>preserve</on_crash>
<os><type arch='x86_64' machine='pc'>hvm</type>
<loader readonly='yes' type='rom'>/var/lib/libvirt/images/halt.rom</loader></os><devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/>
<interface type='bridge'><source bridge='br0'/><mac address='02:00:c0:a8:00:0$2'/>
<rom enabled='no'/></interface>
<memballoon model='none'/></devices><seclabel type='none'/></domain>
END
}

mkdir -p /usr/local/sbin /usr/local/share
install -m 755 macfence /usr/local/sbin/macfence
cp -r share /usr/local/share/macfence
# Guests that halt with their first instruction: they run, and leave the processor to others.
head -c 65536 /dev/zero | tr '\0' '\364' >/var/lib/libvirt/images/halt.rom
# What the page starts from.
echo 'trusted = []' >/etc/macfence.toml
ip link add br0 type bridge && ip link set br0 up
step start libvirtd
systemctl start libvirtd || fail libvirtd
vm one-1 1; vm one-2 2; vm one-42 5
virsh -q create one-1.xml || fail one-1
virsh -q create one-2.xml || fail one-2
virsh -q define one-42.xml || fail one-42
running >before
[ "$(wc -l <before)" = 2 ] || fail "two VMs run: $(cat before)"

step a profile that forbids hooks
cp /etc/apparmor.d/local/usr.sbin.libvirtd kept
echo 'deny /etc/libvirt/hooks/** x,' >>/etc/apparmor.d/local/usr.sbin.libvirtd
apparmor_parser -r -T -W /etc/apparmor.d/usr.sbin.libvirtd || fail reload
etc >forbidding
macfence install-hook libvirt && fail "it is installed where AppArmor forbids it"
etc | diff forbidding - || fail "a refused installation changed something"
cp kept /etc/apparmor.d/local/usr.sbin.libvirtd
apparmor_parser -r -T -W /etc/apparmor.d/usr.sbin.libvirtd || fail reload

# Where the modular daemon has a profile too, as elsewhere; its local file is not there yet.
sed 's/profile libvirtd/profile virtqemud/; s/usr.sbin.libvirtd/usr.sbin.virtqemud/
  s/#include <local/include if exists <local/; s,/usr/sbin/libvirtd,/usr/sbin/virtqemud,' \
  /etc/apparmor.d/usr.sbin.libvirtd >/etc/apparmor.d/usr.sbin.virtqemud
apparmor_parser -r -T -W /etc/apparmor.d/usr.sbin.virtqemud || fail reload

step follow the page
etc >without
grep -q 'not allowed' without || fail "AppArmor allows what is below /usr/local"
@install@
grep PUx /etc/apparmor.d/local/usr.sbin.virtqemud || fail "virtqemud's profile has no addition"
running | diff before - || fail "a VM ended"
fenced >now; printf 'one-1\none-2\n' | diff - now || fail "not fenced as libvirtd came back"

step how to see that it works
{
@see@
} >seen || fail "how to see that it works"
cat seen
macfence doctor --json >findings
cat findings

step undo
virsh -q destroy one-42
@undo@
etc | diff without - || fail "undone, but not as before"
running | diff before - || fail "a VM ended"
[ -z "$(fenced)" ] || fail "still fenced: $(fenced)"

# What follows is said for libvirtd alone.
apparmor_parser -R /etc/apparmor.d/usr.sbin.virtqemud && rm /etc/apparmor.d/usr.sbin.virtqemud || fail unload

step by hand
@hand@
running | diff before - || fail "a VM ended"
virsh -q start one-42 || fail one-42
fenced | grep -q one-42 || fail "a new VM is not fenced"
step end
"#;

/// The commands of a page, each of which must succeed; `doctor` may have found something.
fn steps(blocks: &[String]) -> String {
    let lines = blocks.iter().flat_map(|block| block.lines());
    let checked = lines.map(|line| match line {
        "macfence doctor" => "macfence doctor || true\n".to_owned(),
        _ => format!("{line} || fail '{}'\n", line.replace('\'', "")),
    });
    checked.collect()
}

#[test]
fn libvirts_hook_is_installed_by_the_page_without_harm_to_running_vms() {
    let script = SCRIPT
        .replace("@install@", &steps(&commands("libvirt.md", "On each host")))
        .replace(
            "@see@",
            &steps(&commands("libvirt.md", "How to see that it works")),
        )
        .replace("@undo@", &steps(&commands("libvirt.md", "How to undo it")))
        .replace("@hand@", &steps(&commands("libvirt.md", "By hand")));
    let files = [
        ("macfence", Path::new(MACFENCE)),
        ("share", &source("share")),
    ];
    let ran = booted::run(&files, &script);
    println!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("\nwell\n"), "{}", ran.stdout);
    // The refusal says what forbids it and that nothing is changed.
    for words in [
        "nothing was changed",
        "AppArmor's profile libvirtd does not let",
    ] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let line = ran.stdout.lines().find(|line| line.starts_with("[{"));
    let findings: serde_json::Value = serde_json::from_str(line.unwrap()).unwrap();
    let findings = findings.as_array().unwrap().iter();
    let hook = findings
        .clone()
        .find(|found| found["topic"] == "libvirt hook");
    let hook = hook.unwrap();
    assert_eq!(hook["level"], "ok", "{hook}");
    let text = hook["text"].as_str().unwrap();
    assert!(text.contains("AppArmor lets libvirt execute it"), "{text}");
    // Nothing else is wrong there but that no service notices a flush.
    let wrong: Vec<_> = findings
        .filter(|found| found["level"] != "ok" && found["level"] != "absent")
        .map(|found| found["topic"].as_str().unwrap())
        .collect();
    assert_eq!(wrong, ["service"], "{line:?}");
}
