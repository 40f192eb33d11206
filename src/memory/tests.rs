use std::fs::{Permissions, create_dir, read, remove_file, set_permissions, write};
use std::os::unix::fs::{PermissionsExt, symlink};

use anyhow::anyhow;
use rustix::process::geteuid;
use tempfile::TempDir;

use super::*;
use crate::fence::{ActualGuard, Hears};
use crate::vm::{Asked, Nic};

const MAC: &str = "02:00:c0:a8:00:05";

fn asked(hears_all: bool) -> Asked {
    Asked {
        hears_all,
        ..Asked::default()
    }
}

fn vm(name: &str, asked: Option<Asked>) -> Vm {
    let nic = Nic::new("p0".parse().unwrap(), MAC.parse().unwrap(), None).unwrap();
    Vm {
        name: name.parse().unwrap(),
        nics: vec![Nic { asked, ..nic }],
        skipped: Vec::new(),
    }
}

/// An empty memory, in a directory of its own.
fn memory() -> (TempDir, Memory) {
    let dir = tempfile::tempdir().unwrap();
    set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let memory = Memory::open_in(dir.path(), geteuid(), || Ok(Vec::new())).unwrap();
    (dir, memory)
}

/// What is remembered of a VM's NIC, and the warnings.
fn recalled(memory: &Memory, name: &str) -> (Option<Asked>, Vec<String>) {
    let mut vms = [vm(name, None)];
    let said = memory.recall(&mut vms).why;
    let [vm] = vms;
    (vm.nics[0].asked.clone(), said)
}

#[test]
fn notes_are_remembered_until_they_are_forgotten() {
    let (dir, memory) = memory();
    for hears_all in [true, false] {
        memory.note(&vm("one-1", Some(asked(hears_all)))).unwrap();
        let again = Memory::existing_in(dir.path(), geteuid()).unwrap().unwrap();
        assert_eq!(recalled(&again, "one-1"), (Some(asked(hears_all)), vec![]));
    }
    let file = dir.path().join("vms/one-1.json");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(&dir.path().join("vms"))), (0o600, 0o700));
    assert_eq!(recalled(&memory, "one-2"), (None, vec![]));
    memory.forget(&"one-2".parse().unwrap()).unwrap();
    let name = "one-1".parse().unwrap();
    memory
        .forget_nics(&name, |port, _| port.as_str() == "p1")
        .unwrap();
    assert!(file.exists());
    memory
        .forget_nics(&name, |port, _| port.as_str() == "p0")
        .unwrap();
    assert!(!file.exists());
    memory.note(&vm("one-1", Some(asked(true)))).unwrap();
    memory.forget(&name).unwrap();
    assert_eq!(recalled(&memory, "one-1"), (None, vec![]));
    // A VM whose template asks for nothing has no file.
    memory.note(&vm("one-1", None)).unwrap();
    assert!(!file.exists());
}

#[test]
fn a_file_that_cannot_be_believed_is_named_and_not_believed() {
    let (dir, memory) = memory();
    memory.note(&vm("one-1", Some(asked(true)))).unwrap();
    let file = dir.path().join("vms/one-1.json");
    let good = read(&file).unwrap();
    let said = || {
        let (asked, said) = recalled(&memory, "one-1");
        assert_eq!((asked, said.len()), (None, 1));
        let dir = dir.path().display().to_string();
        said[0].replace(&dir, "DIR")
    };
    let begins = "VM \"one-1\" is isolated, because it is unknown what its template asks for: DIR/vms/one-1.json";
    for mode in [0o620, 0o602] {
        set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let expected = format!("{begins}: other users can write to it");
        assert_eq!(said(), expected);
    }
    set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    write(&file, &good[..good.len() / 2]).unwrap();
    assert!(said().starts_with(&format!("{begins}: it is not a valid record")));
    write(&file, b"\xff\xfe").unwrap();
    assert!(said().starts_with(begins));
    write(&file, " ".repeat((8 << 20) + 1)).unwrap();
    assert!(said().contains("it is longer than 8 MiB"));
    // A new note replaces the file, and the old file's fault is returned.
    let trouble = memory.note(&vm("one-1", Some(asked(true)))).unwrap();
    assert!(trouble.unwrap().to_string().contains("one-1.json"));
    assert_eq!(recalled(&memory, "one-1"), (Some(asked(true)), vec![]));
    let elsewhere = dir.path().join("elsewhere");
    write(&elsewhere, &good).unwrap();
    remove_file(&file).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert!(said().contains("one-1.json is a symbolic link"));
    memory.note(&vm("one-1", Some(asked(false)))).unwrap();
    assert_eq!(read(&elsewhere).unwrap(), good);
    assert_eq!(recalled(&memory, "one-1").0, Some(asked(false)));
    remove_file(&file).unwrap();
    create_dir(&file).unwrap();
    assert!(said().contains("it is not a file"));
    assert!(memory.note(&vm("one-1", Some(asked(true)))).is_err());
    let other = Memory::of(
        Some(lock::directory(&dir.path().join("vms"), geteuid()).unwrap()),
        dir.path(),
        Uid::from_raw(geteuid().as_raw() + 1),
    );
    memory.note(&vm("one-2", Some(asked(true)))).unwrap();
    let (_, said) = recalled(&other, "one-2");
    assert!(said[0].contains("it belongs to another user"), "{said:?}");
}

#[test]
fn vms_that_nobody_knows_are_told_and_so_are_those_whose_files_cannot_be_believed() {
    let (dir, memory) = memory();
    for name in ["one-1", "one-2", "one-3", "a_b"] {
        memory.note(&vm(name, Some(asked(true)))).unwrap();
    }
    for file in ["one-2.json", "a_5fb.json"] {
        write(dir.path().join("vms").join(file), "x").unwrap();
    }
    let known = "one-3".parse().unwrap();
    let others = memory.others(&[&known].into()).unwrap();
    assert_eq!(others.vms, [vm("one-1", Some(asked(true)))]);
    let [(name, why)] = &*others.failed else {
        panic!("{:?}", others.failed);
    };
    assert_eq!(name.as_str(), "one-2");
    assert!(format!("{why:#}").contains("one-2.json: it is not a valid record"));
}

#[test]
fn a_link_that_waits_for_the_writer_is_not_followed() {
    let (dir, memory) = memory();
    let elsewhere = dir.path().join("elsewhere");
    write(&elsewhere, "precious").unwrap();
    symlink(&elsewhere, dir.path().join("vms/new")).unwrap();
    memory.note(&vm("one-1", Some(asked(true)))).unwrap();
    assert_eq!(read(&elsewhere).unwrap(), b"precious");
    assert_eq!(recalled(&memory, "one-1").0, Some(asked(true)));
}

#[test]
fn files_left_by_a_killed_writer_do_no_harm() {
    let (dir, memory) = memory();
    memory.note(&vm("one-1", Some(asked(true)))).unwrap();
    write(dir.path().join("vms/new"), "{\"version\"").unwrap();
    assert_eq!(recalled(&memory, "one-1").0, Some(asked(true)));
    memory.note(&vm("one-1", Some(asked(false)))).unwrap();
    assert_eq!(recalled(&memory, "one-1").0, Some(asked(false)));
    assert!(!dir.path().join("vms/new").exists());
}

#[test]
fn a_directory_that_others_can_change_is_refused() {
    let (dir, _) = memory();
    let vms = dir.path().join("vms");
    set_permissions(&vms, Permissions::from_mode(0o770)).unwrap();
    let refused = || {
        Memory::existing_in(dir.path(), geteuid())
            .err()
            .unwrap()
            .to_string()
    };
    assert!(refused().contains("vms can be changed by other users"));
    std::fs::remove_dir(&vms).unwrap();
    symlink(dir.path(), &vms).unwrap();
    assert!(refused().contains("vms is a symbolic link"));
}

#[test]
fn only_vms_that_have_ended_are_forgotten() {
    let (dir, memory) = memory();
    for name in ["runs", "ended", "broken", "broken-runs"] {
        memory.note(&vm(name, Some(asked(true)))).unwrap();
    }
    for name in ["broken", "broken-runs"] {
        write(dir.path().join("vms").join(name.to_owned() + ".json"), "x").unwrap();
    }
    create_dir(dir.path().join("vms/planted.json")).unwrap();
    let left = || {
        let names = memory.place.names().unwrap();
        let mut names: Vec<_> = names.iter().map(|name| name.replace(".json", "")).collect();
        names.sort();
        names.join(" ")
    };
    let alive = ["runs", "broken-runs"]
        .map(|name| name.parse().unwrap())
        .into();
    // It is unknown which VMs run, or a port still exists.
    memory.forget_ended(None, |_| true, |_| false).unwrap();
    assert_eq!(left(), "broken broken-runs ended planted runs");
    let trouble = memory
        .forget_ended(Some(&alive), |_| true, |_| false)
        .unwrap();
    assert!(trouble[0].contains("planted.json"), "{trouble:?}");
    assert_eq!(left(), "broken-runs ended planted runs");
    memory
        .forget_ended(Some(&alive), |_| false, |_| false)
        .unwrap();
    assert_eq!(left(), "broken-runs planted runs");
    // The VM's ports may come back.
    let may_return = |vm: &VmName| vm.as_str() != "broken-runs";
    memory.forget_ended(None, |_| false, may_return).unwrap();
    assert_eq!(left(), "broken-runs planted runs");
    write(dir.path().join("vms/one-7.json"), "x").unwrap();
    let may_return = |vm: &VmName| vm.as_str() == "one-7";
    memory
        .forget_ended(Some(&alive), |_| false, may_return)
        .unwrap();
    assert_eq!(left(), "broken-runs one-7 planted runs");
    memory
        .forget_ended(Some(&alive), |_| false, |_| false)
        .unwrap();
    assert_eq!(left(), "broken-runs planted runs");
    memory.forget_ended(None, |_| false, |_| false).unwrap();
    assert_eq!(left(), "broken-runs planted");
}

#[test]
fn rules_of_version_0_1_are_adopted_once_and_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let fence = || ActualFence {
        vm: Some("one-1".parse().unwrap()),
        chain: String::new(),
        guards: vec![ActualGuard {
            macs: vec![MAC.parse().unwrap()],
            hears: vec![Hears::All],
            ..ActualGuard::none("p0".parse().unwrap())
        }],
        defects: Vec::new(),
    };
    let open = |actual| Memory::open_in(dir.path(), geteuid(), || actual);
    assert!(open(Err(anyhow!("no nft"))).is_err());
    assert!(
        Memory::existing_in(dir.path(), geteuid())
            .unwrap()
            .is_none()
    );
    // A run that was killed then has left some files.
    write(dir.path().join("new/other.json"), "x").unwrap();
    let memory = open(Ok(vec![fence()])).unwrap();
    assert_eq!(memory.place.names().unwrap(), ["one-1.json"]);
    assert_eq!(recalled(&memory, "one-1").0, Some(asked(true)));
    memory.forget(&"one-1".parse().unwrap()).unwrap();
    let memory = open(Ok(vec![fence()])).unwrap();
    assert_eq!(recalled(&memory, "one-1").0, None);
}
