use super::*;
use crate::fence::LinkLocal;
use crate::policy::{AddressGuard, Extras, Isolation, Overrides};

fn file(text: &str) -> File {
    File::parse(text).unwrap()
}

#[test]
fn every_key_is_read() {
    let file = file(
        "backend = 'nft'\nbridges = ['br0', 'br1']\nconnect = 'xen:///'\nharden-bridges = false\nlog = 'nflog:5'\n\
         prefix-len = 32\ntrusted = ['02:00:0a:00:00:01', '2:0:a:1:0:0/32']\n\
         trusted-ports = ['br0b']\nopennebula-proxy = false\nisolation = 'always'\n\
         multicast-querier = true\naddresses = 'mac'\nlink-local = 'any'\ndhcp-guard = true\n\
         ra-guard = true\ntemplate-extras = true",
    );
    assert_eq!(file.backend, Some(backend::Choice::Nft));
    assert_eq!(file.bridges.unwrap(), ["br0", "br1"]);
    assert_eq!(file.connect.unwrap(), ["xen:///"]);
    assert_eq!(file.harden_bridges, Some(false));
    assert_eq!(file.log, Some(Some(5)));
    let trusted = ["02:00:0a:00:00:01/48", "02:00:0a:01:00:00/32"];
    let all = Overrides {
        prefix_len: Some(32.try_into().unwrap()),
        trusted: Some(trusted.map(|text| text.parse().unwrap()).to_vec()),
        trusted_ports: Some(vec!["br0b".parse().unwrap()]),
        opennebula_proxy: Some(false),
        isolation: Some(Isolation::Always),
        multicast_querier: Some(true),
        addresses: Some(AddressGuard::Mac),
        link_local: Some(LinkLocal::Any),
        dhcp_guard: Some(true),
        ra_guard: Some(true),
        template_extras: Some(true),
    };
    assert_eq!(file.global, all);
}

#[test]
fn sections_are_read() {
    let file = file(
        "[[network]]\nbridge = 'br1'\nprefix-len = 0x20\nips = ['192.168.0.5']\n\
         extra-ips = ['2001:db8::1', '::ffff:10.0.0.1']\nextra-macs = ['0:0:5e:0:1:1']\n\
         [[network]]\nmac = '2:0:a:1:ff:ff/32'\ndhcp-guard = true\n\
         [[nic]]\nmac = '02:00:c0:a8:00:05'\nextra-ips = ['192.168.0.6']\n",
    );
    let [by_bridge, by_mac] = file.networks.as_slice() else {
        panic!("{:?}", file.networks);
    };
    assert_eq!(by_bridge.selector.bridge.as_deref(), Some("br1"));
    assert_eq!(by_bridge.overrides.prefix_len.unwrap().bits(), 32);
    let ips = ["10.0.0.1", "192.168.0.5", "2001:db8::1"].map(|ip| ip.parse().unwrap());
    let extras = Extras {
        macs: ["00:00:5e:00:01:01".parse().unwrap()].into(),
        ips: ips.into(),
    };
    assert_eq!(by_bridge.extras, extras);
    assert_eq!(by_mac.selector.bridge, None);
    assert_eq!(
        by_mac.selector.mac.unwrap().to_string(),
        "02:00:0a:01:00:00/32"
    );
    assert_eq!(by_mac.overrides.dhcp_guard, Some(true));
    let nic = &file.nics[&"02:00:c0:a8:00:05".parse().unwrap()];
    assert_eq!(nic.ips, ["192.168.0.6".parse().unwrap()].into());
}

#[test]
fn a_mistake_is_named_with_its_line_its_section_and_its_key() {
    for (text, words) in [
        ("bridges = 'br0", "line 1: a text has no closing quote"),
        (
            "\nprefix-length = 40",
            "line 2: unknown key `prefix-length`; the keys are `backend`, ",
        ),
        ("backend = \"nft", "line 1: a text has no closing quote"),
        (
            "connect = qemu:///system",
            "line 1: a value is missing, or a text is not in quotes",
        ),
        ("log = 12:x", "line 1: a text is not in quotes"),
        (
            "mac = 02:00:00:00:00:01",
            "line 1: a MAC address is not in quotes: write \"02:00:00:00:00:01\"",
        ),
        (
            "trusted = ['2:0:0:0:0:1',\n52:54:0:AA:BB:1]",
            "line 2: a MAC address is not in quotes: write \"52:54:00:aa:bb:01\"",
        ),
        (
            "trusted = [fe-54-00-aa-bb-01/32]",
            "line 1: a MAC address is not in quotes: write \"fe:54:00:aa:bb:01/32\"",
        ),
        (
            "trusted = ['52-54-00-aa-bb-01']",
            "line 1: trusted must be a list of MAC addresses or prefixes: \"52-54-00-aa-bb-01\" is not a \
             MAC address: write it as 52:54:00:aa:bb:01",
        ),
        (
            "dhcp-guard = True",
            "line 1: true and false are written in lower case",
        ),
        (
            "ra-guard = true\nra-guard = true",
            "line 2: ra-guard is already in line 1: delete one of the two",
        ),
        (
            "trusted = ['a']\n\"trusted\" = ['b']",
            "line 2: trusted is already in line 1: write both values in one list",
        ),
        (
            "[[nic]]\nmac = 'a'\n[[nic]]\nmac = 'b'\n\nmac = 'c'",
            "line 6: mac is already in line 4: delete one of the two",
        ),
        (
            "[[nic]]\n[nic]",
            "line 2: nic is already in line 1: write each such section as [[nic]]",
        ),
        ("a.b = 1\na.b = 2", "line 2: b occurs twice"),
        ("prefix-len = 040", "line 1: a number must not begin with 0"),
        (
            "[[network]\nbridge = 'b'",
            "line 1: a section begins with [[ and ends with ]]",
        ),
        (
            "prefix-len = 7",
            "line 1: prefix-len must be a number from 8 to 48, not 7",
        ),
        (
            "prefix-len = 'x'",
            "line 1: prefix-len must be a number from 8 to 48, not 'x'",
        ),
        (
            "prefix-len = [\n1]",
            "line 1: prefix-len must be a number from 8 to 48, not [...",
        ),
        (
            "trusted = [\n'02:00']",
            "line 1: trusted must be a list of MAC addresses or prefixes: \
             \"02:00\" is not a MAC address",
        ),
        (
            "backend = 'pf'",
            "line 1: backend must be \"auto\" or \"nft\" or \"ebtables\", not 'pf'",
        ),
        (
            "network = 1",
            "line 1: write each such section as [[network]]",
        ),
        (
            "network = [1]",
            "line 1: write each such section as [[network]]",
        ),
        (
            "[network]",
            "line 1: write each such section as [[network]]",
        ),
        (
            "[[network]]\nprefix-len = 40",
            "line 1: [[network]]: set bridge or mac to say which NICs this section is for",
        ),
        (
            "[[network]]\nbridge = 'br1'\nprefix-len = 64",
            "line 3: [[network]] bridge = \"br1\": prefix-len must be a number from 8 to 48, not 64",
        ),
        (
            "[[network]]\nbridge = ''",
            "line 2: [[network]]: bridge must be a bridge name: a bridge name cannot be empty",
        ),
        (
            "[[network]]\nmac = '2:0:a:1:0:0/32'\nbridge = 'b'\nbackend = 'nft'",
            "line 4: [[network]] bridge = \"b\", mac = \"02:00:0a:01:00:00/32\": unknown key \
             `backend`; the keys are `bridge`, `mac`, `prefix-len`, ",
        ),
        (
            "[[network]]\nmac = '2:0:a:1:0:0/32'\n[[network]]\nmac = '2:0:a:1:9:9/32'",
            "line 3: [[network]] mac = \"02:00:0a:01:00:00/32\": [[network]] \
             mac = \"02:00:0a:01:00:00/32\" in line 1 is for the same NICs: merge the two",
        ),
        (
            "[[network]]\nbridge = 'b'\nips = ['224.0.0.1']",
            "line 3: [[network]] bridge = \"b\": ips must be a list of IP addresses: \
             \"224.0.0.1\" is not the IP address of a host",
        ),
        (
            "[[network]]\nbridge = 'b'\ntrusted-ports = ['a b']",
            "line 3: [[network]] bridge = \"b\": trusted-ports must be a list of port names: \
             port name \"a b\" has a character that is not allowed",
        ),
        (
            "[[nic]]\nextra-ips = []",
            "line 1: [[nic]]: set mac to say which NIC this section is for",
        ),
        (
            "[[nic]]\nmac = '2:0:a:1:0:0/32'",
            "line 2: [[nic]]: mac must be a MAC address: \"2:0:a:1:0:0/32\" is not a MAC address",
        ),
        (
            "[[nic]]\nmac = '2:0:a:1:0:1'\nextra-macs = ['ff:ff:ff:ff:ff:ff']",
            "line 3: [[nic]] mac = \"02:00:0a:01:00:01\": extra-macs must be a list of MAC addresses: \
             \"ff:ff:ff:ff:ff:ff\" is a multicast address, which no sender has",
        ),
        (
            "[[nic]]\nmac = '2:0:a:1:0:1'\n[[nic]]\nmac = '02:00:0a:01:00:01'",
            "line 3: [[nic]] mac = \"02:00:0a:01:00:01\": line 1 has a section for the same NIC: merge the two",
        ),
        (
            "[[network]]\nbridge = 'b'\nips = ['x']",
            "\"x\" is not an IP address",
        ),
        (
            "[[network]]\nbridge = 'b'\naddresses = true",
            "addresses must be \"template\" or \"always\" or \"never\" or \"mac\", not true",
        ),
    ] {
        let error = format!("{:#}", File::parse(text).unwrap_err());
        assert!(
            error.contains(words) && !error.contains('\n'),
            "{text}: {error}"
        );
    }
}

#[test]
fn flags_override_only_the_global_values() {
    let path = tempfile::NamedTempFile::new().unwrap();
    let text = "prefix-len = 24\n[[network]]\nbridge = 'br1'\nprefix-len = 32\n";
    fs::write(path.path(), text).unwrap();
    let path = path.path().to_str().unwrap();
    let flags = ["macfence", "--config", path, "--prefix-len", "48", "list"];
    let cli: crate::cli::Cli = clap::Parser::parse_from(flags);
    let policy = Config::new(cli.global).unwrap().policy;
    assert_eq!(policy.global.prefix_len.bits(), 48);
    assert_eq!(policy.networks[0].overrides.prefix_len.unwrap().bits(), 32);
}

#[test]
fn several_libvirts_can_be_named_or_none() {
    let connect = |text: &str| File::parse(text).map(|file| file.connect);
    let both = connect("connect = ['qemu:///system', 'lxc:///']").unwrap();
    assert_eq!(both.unwrap(), ["qemu:///system", "lxc:///"]);
    assert_eq!(connect("connect = []").unwrap().unwrap().len(), 0);
    assert_eq!(connect("").unwrap(), None);
    for wrong in ["connect = 1", "connect = ['a', 2]"] {
        let error = connect(wrong).unwrap_err().to_string();
        assert!(
            error.contains("connect must be a libvirt URI or a list of them, not"),
            "{error}"
        );
    }
}
