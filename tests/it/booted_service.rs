//! The service under a real systemd: its watchdog, its lines in the journal, and a reload.

use std::path::Path;

use crate::lab::pages::blocks;
use crate::lab::{MACFENCE, booted, source};

const SCRIPT: &str = r#"
exec 2>&1
fail() { echo "FAILED: $*"; journalctl -b -u macfence --no-pager | tail -20; exit 1; }
cd /test
cp macfence /usr/sbin/ && chmod 755 /usr/sbin/macfence
sed 's,@sbindir@,/usr/sbin,' macfence.service >/etc/systemd/system/macfence.service
mkdir -p /etc/systemd/system/macfence.service.d
printf '[Service]\nWatchdogSec=20\n' >/etc/systemd/system/macfence.service.d/soon.conf
systemd-analyze verify --man=no /etc/systemd/system/macfence.service || fail verify
ip link add br0 type bridge && ip link set br0 up
ip tuntap add one-7-0 mode tap && ip link set one-7-0 master br0 up
nic() { echo "<interface type='bridge'><mac address='02:00:c0:a8:00:0$1'/><source bridge='br0'/><target dev='one-7-$2'/></interface>"; }
node() { echo "<node><domain type='test'><name>one-7</name><memory>1024</memory><os><type>hvm</type></os><devices>$*</devices></domain></node>" >/etc/node.xml; }
node "$(nic 5 0)"
echo 'connect = "test:///etc/node.xml"' >/etc/macfence.toml
systemctl daemon-reload
systemctl start macfence || fail start
nft -a list ruleset >before
grep -q one-7-0 before || fail "not fenced"
echo "== the journal"
journalctl --no-pager MACFENCE_VM=one-7 -o cat | grep -qx 'fenced one-7: port "one-7-0"' || fail "no line by VM"
journalctl --no-pager MACFENCE_PORT=one-7-0 MACFENCE_ACTION=fenced _SYSTEMD_UNIT=macfence.service -o json | tail -1
journalctl --no-pager -u macfence | tail -3
echo "== reload"
printf 'connect = "test:///etc/node.xml"\nprefix-len = 32\n' >/etc/macfence.toml
systemctl reload macfence || fail reload
for i in $(seq 100); do nft list ruleset | grep -q 'ff:ff:ff:ff:00:00' && break; sleep .5; done
nft list ruleset | grep -q 'ff:ff:ff:ff:00:00' || fail "the new settings do not apply"
echo "== the watchdog"
nft -a list ruleset >before
pid=$(systemctl show -p MainPID --value macfence)
kill -STOP $pid
for i in $(seq 200); do
  nft -a list ruleset | diff before - >/dev/null || fail "a fence has changed"
  now=$(systemctl show -p MainPID --value macfence)
  [ "$now" != 0 ] && [ "$now" != $pid ] && systemctl is-active -q macfence && break; sleep .5
done
[ "$now" != $pid ] || fail "not started again"
nft -a list ruleset | diff before - || fail "a fence has changed"
systemctl show -p NRestarts -p Result -p ActiveState macfence
journalctl --no-pager -b -u macfence -o cat | grep -i watchdog
echo "== it works on"
nft flush ruleset
for i in $(seq 100); do nft list ruleset | grep -q one-7-0 && break; sleep .5; done
nft list ruleset | grep -q one-7-0 || fail "not back"
journalctl --no-pager -b MACFENCE_VM=one-7 -o cat
journalctl --no-pager -b -u macfence -p warning -o cat
echo "== legacy ebtables, with the drop-in of the page"
systemctl stop macfence
nft flush ruleset
update-alternatives --set ebtables /usr/sbin/ebtables-legacy
printf 'connect = "test:///etc/node.xml"\nbackend = "ebtables"\n' >/etc/macfence.toml
grep -v '^#' /proc/modules | grep ebtable_nat && fail "ebtable_nat is there already"
cp ebtables-legacy.conf /etc/systemd/system/macfence.service.d/
systemctl daemon-reload
systemctl start macfence || fail "start with legacy ebtables"
ebtables --version
ebtables-legacy -t nat -L | grep one-7-0 || fail "legacy ebtables: not fenced"
[ -z "$(nft list ruleset)" ] || fail "nft was used: $(nft list ruleset)"
echo well
"#;

#[test]
fn a_service_that_hangs_is_started_again_while_its_fences_stay() {
    let files = [
        ("macfence", Path::new(MACFENCE)),
        (
            "macfence.service",
            &source("share/systemd/macfence.service"),
        ),
    ];
    let drop_in = blocks("service.md").into_iter();
    let mut drop_in = drop_in.filter(|block| block.text.contains("ebtable_nat"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, drop_in.next().unwrap().text).unwrap();
    let files = [&files[..], &[("ebtables-legacy.conf", file.path())]].concat();
    let ran = booted::run(&files, SCRIPT);
    println!("{}", ran.stdout);
    assert_eq!(ran.status, 0);
    for words in [
        "\"MACFENCE_VM\":\"one-7\"",
        "NRestarts=1",
        "Failed with result 'watchdog'",
        "\nwell\n",
    ] {
        assert!(ran.stdout.contains(words), "{words}");
    }
}
