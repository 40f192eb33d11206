//! Text that is made to keep a parser busy or to fill memory is refused by its counts. Ordinary
//! text of the same length is not.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::{A, host, refused};
use crate::lab::{Host, Ran, domain, fake_virsh, macfence_with};

/// Texts of up to 4 MiB that exceed a limit, and the words of the refusal.
fn attacks() -> Vec<(String, &'static str)> {
    let named = |name: &str, count: usize| -> String {
        (0..count).map(|n| format!(" {name}{n}='x'")).collect()
    };
    let around = |start: &str, count: usize| start.repeat(count) + &"</a>".repeat(count);
    let nics = "<interface/><NIC/>".repeat(2_000);
    vec![
        // The parser compares each attribute with each other.
        (
            format!("<a{}/>", named("b", 200_000)),
            "more than 100 attributes on one element",
        ),
        (
            format!("<a{}/>", named("b", 90)).repeat(2_000),
            "more than 100,000 attributes",
        ),
        ("<a/>".repeat(1_000_000), "more than 100,000 elements"),
        (
            "<!---->".repeat(500_000),
            "more than 400,000 pieces of text and comments",
        ),
        (around("<a>", 400_000), "more than 256 levels of elements"),
        // The parser copies the namespaces of all parents to each element.
        (
            around(&format!("<a{}>", named("xmlns:b", 90)), 200),
            "more than 100 namespaces",
        ),
        (
            format!("<devices>{nics}</devices>{nics}"),
            "more than 1,000 NICs",
        ),
    ]
}

/// Returns the domain XML of a VM with more text in it.
fn with_more(name: &str, more: &str) -> String {
    domain(name, &[]).replace("<devices>\n  </devices>", more)
}

/// Returns an OpenNebula template with more text in it.
fn template(more: &str) -> String {
    let nic = format!("<NIC><NIC_ID>0</NIC_ID><MAC>{A}</MAC><TARGET>one-42-0</TARGET></NIC>");
    BASE64_STANDARD.encode(format!(
        "<VM><ID>42</ID><TEMPLATE>{nic}{more}</TEMPLATE></VM>"
    ))
}

fn hook(host: &Host, xml: &str, operation: &str) -> Ran {
    let args = ["hook", "libvirt", "--", "a", operation, "begin", "-"];
    host.macfence_reading(xml, args)
}

#[test]
fn domain_xml_beyond_a_limit() {
    let host = host();
    for (more, limit) in attacks() {
        let xml = with_more("a", &more);
        let words = ["standard input: the domain XML has ", limit];
        refused(&host, &words, |host| host.apply(&xml));
        refused(&host, &words, |host| hook(host, &xml, "start"));
        // libvirt would end a running VM if the hook failed.
        let before = host.generation();
        let ran = hook(&host, &xml, "reconnect");
        assert_eq!((ran.status, &*ran.stdout), (0, ""), "{ran:?}");
        for words in [limit, "the fences stay as they are"] {
            assert!(ran.stderr.contains(words), "{}", ran.stderr);
        }
        assert_eq!(host.generation(), before);
    }
}

#[test]
fn a_vm_template_beyond_a_limit() {
    let host = host();
    let more = [
        ("<a/>".repeat(10_000_000), "more than 100,000 elements"),
        // The parser would reserve 3.5 GB.
        (
            "=".repeat(47 << 20),
            "more than 4,000,000 characters `<` and `=`",
        ),
    ];
    for (more, limit) in attacks().into_iter().chain(more) {
        let template = template(&more);
        for hook in ["one-post", "one-clean"] {
            let words = ["standard input: the VM template has ", limit];
            refused(&host, &words, |host| {
                host.macfence_reading(&template, ["hook", hook])
            });
        }
    }
}

#[test]
fn a_vm_template_with_long_text_is_read() {
    let host = host();
    host.ports("br0", &["one-42-0"]);
    let script = "[ $a = 1 ] && <b> &c; </VM>\n".repeat(1 << 20);
    let escaped = "x &lt; y &amp;&amp; z\n".repeat(1 << 17);
    let template = template(&format!("<A><![CDATA[{script}]]></A><B>{escaped}</B>"));
    let args = ["hook", "one-post"];
    host.macfence_reading(&template, args).quiet();
    assert_eq!(host.fenced(), ["one-1", "one-42"]);
}

#[test]
fn sync_fences_other_domains_despite_one_beyond_a_limit() {
    let host = host();
    for (more, limit) in attacks() {
        let virsh = fake_virsh(&[
            ("a", &with_more("a", &more)),
            ("one-1", &domain("one-1", &[(A, "one-1-0", "br0")])),
        ]);
        let before = host.generation();
        let ran = host.exec(macfence_with(&virsh).arg("sync"), "");
        assert_eq!((ran.status, &*ran.stdout), (1, ""), "{ran:?}");
        let words = format!("not fenced: a: the domain XML has {limit}");
        assert!(ran.stderr.contains(&words), "{}", ran.stderr);
        assert_eq!(
            (host.generation(), host.fenced()),
            (before, vec!["one-1".to_owned()])
        );
    }
}

#[test]
fn closing_tags_of_domains_in_text_end_no_domain() {
    let host = host();
    let ends = format!("<![CDATA[{}]]>", "</domain>".repeat(400_000));
    let nic = "<devices><interface type='bridge'><mac address='02:00:c0:a8:01:05'/><target dev='vnet0'/></interface></devices>";
    let virsh = fake_virsh(&[
        (
            "a",
            &with_more("a", &format!("<metadata>{ends}</metadata>{nic}")),
        ),
        ("one-1", &domain("one-1", &[(A, "one-1-0", "br0")])),
    ]);
    let ran = host.exec(macfence_with(&virsh).arg("sync"), "");
    assert_eq!(ran.ok(), "fenced a: port \"vnet0\"\n");
}
