use super::*;
use crate::fence::ActualGuard;
use proptest::prelude::*;

const A: &str = "02:00:c0:a8:00:05";
const B: &str = "02:00:c0:a8:00:06";

fn all() -> Asked {
    Asked {
        hears_all: true,
        ..Asked::default()
    }
}

fn guarded() -> Asked {
    let ip = |text: &str| text.parse().unwrap();
    Asked {
        hears_all: false,
        guards_addresses: true,
        addresses: ["192.168.0.5", "fd00::5"].map(ip).into(),
        extra_macs: ["00:00:5e:00:01:0a".parse().unwrap()].into(),
        extra_addresses: [ip("192.168.0.250")].into(),
    }
}

fn nic(port: &str, mac: &str, asked: Option<Asked>) -> Nic {
    Nic {
        asked,
        ..Nic::new(port.parse().unwrap(), mac.parse().unwrap(), None).unwrap()
    }
}

fn vm(nics: &[Nic]) -> Vm {
    Vm {
        name: "one-42".parse().unwrap(),
        nics: nics.to_vec(),
        skipped: Vec::new(),
    }
}

/// The values filled in for NICs with these ports and addresses.
fn filled(record: &Record, nics: &[(&str, &str)]) -> Vec<Option<Asked>> {
    let nics: Vec<_> = nics.iter().map(|(p, m)| nic(p, m, None)).collect();
    let mut vm = vm(&nics);
    record.fill(&mut vm);
    vm.nics.into_iter().map(|nic| nic.asked).collect()
}

fn two() -> Record {
    Record::of(&vm(&[
        nic("one-42-0", A, Some(all())),
        nic("one-42-1", B, Some(guarded())),
    ]))
}

#[test]
fn a_record_is_read_back_as_it_was_written() {
    let record = two();
    let text = record.text().unwrap();
    assert_eq!(Record::parse(&text, "one-42.json").unwrap(), record);
}

#[test]
fn later_versions_read_the_file_of_version_1() {
    let text = r#"{"version":1,"vm":"one-42","nics":[
        {"port":"one-42-0","mac":"02:00:c0:a8:00:05","hears_all":true,"guards_addresses":false,
         "addresses":[],"extra_macs":[],"extra_addresses":[]},
        {"port":"one-42-1","mac":"02:00:c0:a8:00:06","hears_all":false,"guards_addresses":true,
         "addresses":["192.168.0.5","fd00::5"],"extra_macs":["00:00:5e:00:01:0a"],
         "extra_addresses":["192.168.0.250"]}]}"#;
    assert_eq!(Record::parse(text, "one-42.json").unwrap(), two());
}

#[test]
fn a_file_that_is_no_record_of_this_vm_is_refused() {
    let good = two().text().unwrap();
    let bad = |from: &str, to: &str| good.replace(from, to);
    for (text, words) in [
        (String::new(), "not a valid record"),
        (good[..good.len() / 2].to_owned(), "not a valid record"),
        ("[]".to_owned(), "not a valid record"),
        (bad("\"version\": 1", "\"version\": 2"), "has version 2"),
        (
            bad("\"vm\": \"one-42\"", "\"vm\": \"one-7\""),
            "belongs to VM \"one-7\"",
        ),
        (bad("\"vm\": \"one-42\"", "\"vm\": \"\""), "empty"),
        (bad("hears_all", "hears_most"), "not a valid record"),
        (bad("\"hears_all\": true,", ""), "not a valid record"),
        (
            bad("\"hears_all\": true", "\"hears_all\": \"yes\""),
            "not a valid record",
        ),
        (
            bad("\"hears_all\"", "\"more\": 1, \"hears_all\""),
            "not a valid record",
        ),
        (
            bad("192.168.0.250", "192.168.0.256"),
            "an invalid IP address",
        ),
        (bad("one-42-1", "one-42-0"), "port \"one-42-0\" twice"),
        (bad("one-42-1", "a b"), "port name"),
        (bad(B, "01:00:5e:00:00:01"), "multicast"),
        (good.clone() + "x", "not a valid record"),
    ] {
        let error = format!("{:#}", Record::parse(&text, "one-42.json").unwrap_err());
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn a_nic_is_found_by_its_port_and_address_or_by_its_address() {
    let record = two();
    let own = [("one-42-0", A), ("one-42-1", B)];
    assert_eq!(filled(&record, &own), [Some(all()), Some(guarded())]);
    // Xen has given the VM other ports, one of them emulated.
    let anew = [("vif8.0", A), ("vif8.0-emu", A), ("vif8.1", B)];
    let expected = [Some(all()), Some(all()), Some(guarded())];
    assert_eq!(filled(&record, &anew), expected);
    let another = [
        ("one-42-0", "02:00:c0:a8:00:07"),
        ("one-42-2", "02:00:00:00:00:01"),
    ];
    assert_eq!(filled(&record, &another), [None, None]);
    let twins = Record::of(&vm(&[
        nic("p0", A, Some(all())),
        nic("p1", A, Some(guarded())),
    ]));
    let three = [("p1", A), ("p0", A), ("p2", A)];
    assert_eq!(filled(&twins, &three), [Some(guarded()), Some(all()), None]);
    // What a template says is not overwritten.
    let mut told = vm(&[nic("one-42-0", A, Some(guarded()))]);
    record.fill(&mut told);
    assert_eq!(told.nics[0].asked, Some(guarded()));
}

#[test]
fn a_newer_record_of_a_nic_replaces_the_older() {
    let mut record = two();
    record.update(Record::of(&vm(&[
        nic("one-42-0", A, Some(guarded())),
        nic("one-42-2", "02:00:c0:a8:00:07", None),
    ])));
    let own = [
        ("one-42-0", A),
        ("one-42-1", B),
        ("one-42-2", "02:00:c0:a8:00:07"),
    ];
    let expected = [Some(guarded()), Some(guarded()), None];
    assert_eq!(filled(&record, &own), expected);
    // Another NIC now has the port, and the first one has another port.
    record.update(Record::of(&vm(&[nic("one-42-0", B, Some(all()))])));
    assert_eq!(filled(&record, &own), [None, Some(all()), None]);
    assert_eq!(record.ports().count(), 1);
    record.forget(|port, _| port.as_str() == "one-42-0");
    assert!(record.is_empty());
}

#[test]
fn only_ports_that_hear_all_networks_are_adopted_from_version_0_1() {
    let guard = |port: &str, macs: &[&str], hears: &[Hears]| ActualGuard {
        macs: macs.iter().map(|mac| mac.parse().unwrap()).collect(),
        hears: hears.to_vec(),
        ..ActualGuard::none(port.parse().unwrap())
    };
    let fence = |guards: &[ActualGuard]| ActualFence {
        vm: Some("one-42".parse().unwrap()),
        chain: String::new(),
        guards: guards.to_vec(),
        defects: Vec::new(),
    };
    let lost = guard("one-42-1", &[B], &[]);
    let twice = guard("one-42-2", &[A, B], &[Hears::All]);
    let open = guard("one-42-0", &[A], &[Hears::All]);
    let adopted = Record::adopted(&fence(&[open, lost.clone(), twice])).unwrap();
    let own = [("one-42-0", A), ("one-42-1", B), ("one-42-2", A)];
    assert_eq!(adopted.ports().count(), 1);
    assert_eq!(filled(&adopted, &own)[..2], [Some(all()), None]);
    assert_eq!(Record::adopted(&fence(&[lost])), None);
}

#[test]
fn a_file_has_a_name_that_is_no_path_and_no_other_vms() {
    let name = |vm: &str| file_name(&vm.parse().unwrap()).map_err(|e| e.to_string());
    assert_eq!(name("one-42").unwrap(), "one-42.json");
    assert_eq!(name("../x/\0").unwrap(), ".._2fx_2f_00.json");
    assert_eq!(name(".").unwrap(), "..json");
    assert_ne!(name("a b").unwrap(), name("a_20b").unwrap());
    assert_eq!(name(&"x".repeat(250)).unwrap().len(), 255);
    for long in ["x".repeat(251), "日".repeat(28)] {
        assert!(name(&long).unwrap_err().contains("too long"));
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(at in 0..800usize, len in 0..40usize, text in "\\PC{0,8}|[\"{},:\\[\\]]{0,8}") {
        let mut bytes = two().text().unwrap().into_bytes();
        let at = at.min(bytes.len());
        let end = (at + len).min(bytes.len());
        bytes.splice(at..end, text.bytes());
        if let Ok(record) = Record::parse(&String::from_utf8_lossy(&bytes), "one-42.json") {
            let text = record.text().unwrap();
            prop_assert_eq!(Record::parse(&text, "one-42.json").unwrap(), record);
        }
    }
}
