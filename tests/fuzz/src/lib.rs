//! One function for each kind of foreign text. None may panic, whatever the text. Accepted values
//! must keep the promises that the rest of the program relies on, and errors must be short.

use macfence::backend::{ebtables, nft};
use macfence::config::File;
use macfence::memory::Record;
use macfence::policy::Policy;
use macfence::source::opennebula::Template;
use macfence::source::{libvirt, virsh, xen};
use macfence::vm::{Place, Port, Vm};

/// Domain XML, from a file or from libvirt's hook.
pub fn domain(text: &str) {
    if let Some(vm) = taken(libvirt::domain(text)) {
        fence(&vm);
    }
}

/// The output of virsh.
pub fn virsh(text: &str) {
    let (domains, rest) = virsh::domains(text);
    assert!(text.ends_with(rest));
    for domain in domains {
        let _ = taken(domain.vm).map(|vm| fence(&vm));
    }
}

/// OpenNebula's VM template, as XML and in base64.
pub fn template(text: &str) {
    let _ = taken(Template::read(text));
    let Some(template) = taken(Template::parse(text)) else {
        return;
    };
    let name = taken(template.name(None));
    let name = name.unwrap_or_else(|| "another".parse().expect("a name"));
    for driver in [None, Some("bridge")] {
        let meant = template.vm(name.clone(), driver, None);
        let Some(vm) = taken(meant) else { continue };
        fence(&vm);
        assert!(template.vm(name.clone(), driver, Some(&vm)).is_ok());
    }
}

/// The tables that Xen's tools print, and what xenstore lists.
pub fn xen(text: &str) {
    for (name, id) in taken(xen::domains(text)).into_iter().flatten() {
        assert!(id != 0 && !name.as_str().is_empty());
    }
    let _ = taken(xen::interfaces(text));
    let _ = taken(xen::Backends::read(text));
}

/// The listings of both kinds of ebtables.
pub fn ebtables(text: &str) {
    let mut ruleset = ebtables::ruleset::Ruleset::default();
    if ruleset.read("filter", text).is_err() {
        return;
    }
    let _ = ebtables::fences::of(&ruleset);
    for rule in ruleset.rules {
        literal(rule.port());
        assert!(
            rule.words()
                .iter()
                .all(|word| !word.contains(char::is_whitespace))
        );
    }
}

/// The listings of nft.
pub fn nft(text: &str) {
    let mut ruleset = nft::ruleset::Ruleset::default();
    if ruleset.read(text).is_err() {
        return;
    }
    let fences = ruleset.fences().expect("our own skeleton can be read");
    for guard in fences.iter().flat_map(|fence| &fence.guards) {
        literal(&guard.port);
    }
}

/// A record of macfence's memory. Only root can have written one.
pub fn memory(text: &str) {
    let Ok(record) = Record::parse(text, "one-42.json") else {
        return;
    };
    let again = record.text().expect("a record can be written");
    assert_eq!(
        Record::parse(&again, "one-42.json").ok(),
        Some(record.clone())
    );
    record.ports().for_each(literal);
}

/// The configuration file.
pub fn config(text: &str) {
    if let Err(e) = File::parse(text) {
        assert!(format!("{e:#}").starts_with("line "), "{e:#}");
    }
}

/// Returns the accepted value. An error must not quote all of the text, because users write it.
fn taken<T>(read: anyhow::Result<T>) -> Option<T> {
    let short = |e: &anyhow::Error| assert!(format!("{e:#}").len() < 3_000, "{e:#}");
    read.inspect_err(short).ok()
}

/// Does what happens to every VM, from any source.
fn fence(vm: &Vm) {
    let everywhere = |_: &_| Ok(Place::Nic("br0".to_owned()));
    let (fence, _) = Policy::default().fence(vm, everywhere).expect("a fence");
    for guard in &fence.guards {
        literal(&guard.port);
    }
}

/// A port's name is put into rulesets unescaped.
fn literal(port: &Port) {
    let name = port.as_str();
    assert!(name.len() <= Port::MAX_LEN && !name.contains(['*', '"', '\\', '/', '\n', ' ']));
}
