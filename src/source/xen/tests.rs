use super::*;
use crate::vm::Port;
use proptest::prelude::*;

const XL: &str = "\
Idx BE Mac Addr.         handle state evt-ch   tx-/rx-ring-ref BE-path
0   0  02:00:c0:a8:00:05 0      4     14       768/769         /local/domain/0/backend/vif/7/0
1   0  02:00:c0:a8:01:05 1      4     -1       -1/-1           /local/domain/0/backend/vif/7/1
";

#[test]
fn the_tables_of_both_tools_are_read() {
    let xm = "Idx BE     MAC Addr.     handle state evt-ch tx-/rx-ring-ref BE-path\n\
              0   0  2:0:c0:a8:0:5        0     1      -1    -1   /-1      /local/x\n\
              10  0  02:00:c0:a8:01:05    1     4      8     9/10 more  columns\n\n";
    assert_eq!(
        interfaces(XL).unwrap(),
        [Ok((0, "02:00:c0:a8:00:05")), Ok((1, "02:00:c0:a8:01:05"))]
    );
    assert_eq!(
        interfaces(xm).unwrap(),
        [Ok((0, "2:0:c0:a8:0:5")), Ok((10, "02:00:c0:a8:01:05"))]
    );
    assert_eq!(interfaces("").unwrap(), []);
}

#[test]
fn the_domains_of_both_tools_are_read_but_for_the_hosts_own() {
    let xl = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n\
              Domain-0                                     0  2048     2     r-----   12345.6\n\
              one-7                                        7   128     1     -b----      12.4\n\
              my db 2                                     12   128     1     ------       0.0\n";
    let name = |text: &str| text.parse::<VmName>().unwrap();
    let domains = |listing| domains(listing).map_err(|e| e.to_string());
    assert_eq!(
        domains(xl),
        Ok(vec![(name("one-7"), 7), (name("my db 2"), 12)])
    );
    assert_eq!(domains("").unwrap(), []);
    for listing in ["Error: no connection", "a b c d e f", "7 128 1 -b---- 12.4"] {
        assert!(
            domains(listing)
                .unwrap_err()
                .contains(&format!("{listing:?}"))
        );
    }
}

#[test]
fn an_interface_without_a_port_here_is_named() {
    let listing = "0 0 ?? 0 1\n1 5 2:0:0:0:0:1 0 1\n";
    assert_eq!(
        interfaces(listing).unwrap(),
        [
            Err("interface 0 has no MAC address".to_owned()),
            Err("interface 1 has its port in domain 5".to_owned()),
        ]
    );
}

#[test]
fn what_is_no_table_is_refused_by_line() {
    for listing in [
        "Error: no such domain",
        "0 0",
        "x 0 2:0:0:0:0:1",
        "0 y 2:0:0:0:0:1",
    ] {
        let error = interfaces(listing).unwrap_err().to_string();
        assert!(error.contains(&format!("{listing:?}")), "{error}");
    }
}

#[test]
fn a_table_beyond_a_limit_is_refused() {
    let table = |line: &str, lines: usize| format!("{line}\n").repeat(lines);
    let (nic, domain) = ("0 0 2:0:0:0:0:1", "a 7 1 1 b 1");
    assert_eq!(interfaces(&table(nic, NICS.most())).unwrap().len(), 1_000);
    assert_eq!(
        domains(&table(domain, DOMAINS.most())).unwrap().len(),
        32_752
    );
    for (error, words) in [
        (interfaces(&table(nic, 1_001)).err(), "more than 1,000 NICs"),
        (
            domains(&table(domain, 32_753)).err(),
            "more than 32,752 domains",
        ),
        (interfaces(&table(" ", 3 << 20)).err(), "longer than 4 MiB"),
        (domains(&table(" ", 3 << 20)).err(), "longer than 4 MiB"),
        (domains(&"x".repeat(4 << 20)).err(), "xxx"),
    ] {
        let error = format!("{:#}", error.unwrap());
        assert!(error.contains(words) && error.len() < 200, "{error}");
    }
}

/// What a real Xen prints of a domain that is still paused, with `vifname=tenant7` for its first interface.
const LIST: &str = include_str!("../../../tests/captures/xl-4.17-list-paused.txt");
const INTERFACES: &str = include_str!("../../../tests/captures/xl-4.17-network-list-paused.txt");
const STORE: &str = include_str!("../../../tests/captures/xenstore-ls-4.17-vif.txt");

#[test]
fn what_a_real_xen_tells_before_a_guest_runs_is_read() {
    let one: VmName = "one-7".parse().unwrap();
    assert_eq!(domains(LIST).unwrap(), [(one, 1)]);
    assert_eq!(
        interfaces(INTERFACES).unwrap(),
        [Ok((0, "02:00:c0:a8:00:05")), Ok((1, "02:00:c0:a8:01:05"))]
    );
    let backends = Backends::read(STORE).unwrap();
    let port = |index, there: &str| {
        let port = backends.of(1, index).unwrap();
        let is_there = |port: &Port| port.as_str() == there;
        port.port(is_there, is_there).unwrap().to_string()
    };
    assert_eq!(
        (port(0, ""), port(1, "")),
        ("tenant7".into(), "vif1.1".into())
    );
    assert_eq!(
        port(0, "vif1.0"),
        "vif1.0",
        "put there by a script that renames nothing"
    );
    for (domain, index) in [(1, 2), (2, 0)] {
        let error = backends.of(domain, index).unwrap_err().to_string();
        let words = format!("no interface {index} of domain {domain}");
        assert!(error.contains(&words), "{error}");
    }
}

#[test]
fn a_name_that_another_device_has_is_not_this_interfaces_while_it_has_the_kernels() {
    let backends = Backends::read(STORE).unwrap();
    let port = |there: &[&str], on_bridge: &str| {
        let is_there = |port: &Port| there.contains(&port.as_str());
        let is_on_bridge = |port: &Port| port.as_str() == on_bridge;
        let port = backends.of(1, 0).unwrap().port(is_there, is_on_bridge);
        port.unwrap().to_string()
    };
    assert_eq!(port(&["vif1.0", "tenant7"], "tenant7"), "vif1.0");
    // About to be renamed, and renamed.
    assert_eq!(port(&["vif1.0"], ""), "tenant7");
    assert_eq!(port(&["tenant7"], "tenant7"), "tenant7");
}

#[test]
fn names_with_characters_of_shells_and_tables_are_read() {
    // As a real one prints them.
    for name in [
        "my db", "a'b", "x$(id)", "-h", "über", "p/q", "tab\tb", "a\"b",
    ] {
        let row = format!(
            "{name:<40} {:>5} {:>5} {:>5}     --p---       0.0\n",
            9, 96, 1
        );
        let expected = (name.parse().unwrap(), 9);
        assert_eq!(domains(&row).unwrap(), [expected]);
    }
}

#[test]
fn an_emulated_device_is_found_under_either_name() {
    let listing = |name: &str| {
        let path = "/local/domain/0/backend/vif/7/0";
        format!("{path} = \"\"\n{path}/vifname = \"{name}\"\n")
    };
    let emulated = |name: &str, there: &str| {
        let backends = Backends::read(&listing(name)).unwrap();
        let backend = backends.of(7, 0).unwrap();
        let is_there = |port: &Port| there.split(' ').any(|there| there == port.as_str());
        let port = backend.port(is_there, |_| false).unwrap();
        let found = backend.emulated(&port, |port| Ok(is_there(port))).unwrap();
        found.map(|port| port.to_string())
    };
    for there in ["vif7.0-emu", "tenant7-emu"] {
        assert_eq!(emulated("tenant7", there).as_deref(), Some(there));
    }
    // Another domain's.
    assert_eq!(emulated("tenant7", "vif7.0 tenant7 tenant7-emu"), None);
    assert_eq!(emulated("tenant7", "other-emu"), None);
    assert_eq!(emulated("fifteen-letters", "x"), None);
}

#[test]
fn a_name_that_no_device_can_have_is_an_error_of_that_interface() {
    let path = "/local/domain/0/backend/vif/7";
    let listing = format!("{path}/0/vifname = \"a b\"\n{path}/1 = \"\"\nnonsense\n/x = \"\"\n");
    let backends = Backends::read(&listing).unwrap();
    let port = |index| backends.of(7, index).unwrap().port(|_| false, |_| false);
    let error = format!("{:#}", port(0).unwrap_err());
    assert!(
        error.contains("vifname of interface 0 of domain 7"),
        "{error}"
    );
    assert_eq!(port(1).unwrap().to_string(), "vif7.1");
    let unquoted = format!("{path}/0/vifname = x\n");
    assert!(Backends::read(&unquoted).is_err());
    assert!(Backends::read(&"x".repeat((64 << 20) + 1)).is_err());
}

proptest! {
    #[test]
    fn no_table_makes_the_parser_panic(
        at in 0..XL.len(), len in 0..80usize, text in "\\PC{0,8}",
    ) {
        let mut bytes = XL.as_bytes().to_vec();
        bytes.splice(at..(at + len).min(XL.len()), text.bytes());
        let _ = interfaces(&String::from_utf8_lossy(&bytes));
        let _ = domains(&String::from_utf8_lossy(&bytes));
        let mut bytes = STORE.as_bytes().to_vec();
        bytes.splice(at..(at + len).min(STORE.len()), text.bytes());
        let _ = Backends::read(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn what_is_about_to_come_to_a_bridge_has_the_name_that_the_script_will_give_it() {
    let coming = |listing: &str, ending: &str, there: &[&str]| {
        let backends = Backends::read(listing).unwrap();
        let exists = |bridge: &str| there.contains(&bridge);
        let coming = backends.of(1, 0).unwrap().coming(ending, exists);
        let words = |c: Coming| format!("{} {} {}", c.now, c.port, c.bridge);
        coming.map(words).map_err(|e| format!("{e:#}"))
    };
    let said = |words: &str| Ok(words.to_owned());
    assert_eq!(
        coming(STORE, "", &["xenbr0"]),
        said("vif1.0 tenant7 xenbr0")
    );
    let emulated = said("vif1.0-emu tenant7-emu xenbr0");
    assert_eq!(coming(STORE, "-emu", &["xenbr0"]), emulated);
    let plain = STORE.replace("tenant7", "");
    assert_eq!(coming(&plain, "", &[]), said("vif1.0 vif1.0 xenbr0"));
    // As configurations of old have it, and Xen's script.
    assert_eq!(coming(&plain, "", &["eth0"]), said("vif1.0 vif1.0 eth0"));
    let error = coming(&STORE.replace("/bridge = ", "/ = "), "", &[]).unwrap_err();
    assert!(error.contains("names no bridge"), "{error}");
    let long = STORE.replace("tenant7", "a-name-of-12");
    assert_eq!(coming(&long, "", &[]), said("vif1.0 a-name-of-12 xenbr0"));
    let error = coming(&long, "-emu", &[]).unwrap_err();
    assert!(error.contains("vifname of interface 0"), "{error}");
}
