use super::*;
use crate::source::libvirt;

const CAPTURE: &str = include_str!("../../../tests/captures/virsh-9.0-dumpxml-one-1.xml");

#[test]
fn one_domain_after_the_other_is_read() {
    let inner = "<metadata><a xmlns='x'><domain>\n</domain></a></metadata></domain>";
    let odd = CAPTURE.replace("</domain>", inner);
    let text = format!("{CAPTURE}\n{odd}\n\n<domain id='3'><name>c</name></domain>\n");
    let (all, rest) = domains(&text);
    let names: Vec<_> = all.iter().map(|domain| domain.name.as_str()).collect();
    assert_eq!((&*names, rest), (&["one-1", "one-1", "c"][..], "\n"));
    assert_eq!(all[1].vm.as_ref().unwrap().nics.len(), 1);
    // If the output is cut off, the domains before the cut count.
    let (cut, rest) = domains(&text[..CAPTURE.len() + 100]);
    assert_eq!(cut.len(), 1);
    assert!(rest.trim_start().starts_with("<domain") && rest.len() >= 100);
}

#[test]
fn text_that_is_no_domain_is_returned_or_has_no_vm() {
    for text in ["hello", "<domain>", "</domain>", "</domain></domain>é"] {
        assert_eq!(domains(text).1, text);
    }
    // Nobody can tell whether the text after it is a domain, or text that a user put into the first one.
    let broken = "<domain><name>a</domain>\n<domain><name>b</name></domain>";
    assert_eq!(domains(broken).1, broken);
    let (all, rest) = domains("<domain id='1'></domain>");
    assert!(all.iter().all(|domain| domain.vm.is_err()));
    assert_eq!((all.len(), rest), (1, ""));
}

#[test]
fn vms_are_found_in_an_answer_by_their_names() {
    let mut answer = Answer {
        domains: domains("<domain><name>a</name></domain><domain id='1'><name>b</name></domain>").0,
        ..Answer::default()
    };
    let name = |text: &str| text.parse::<VmName>().unwrap();
    let vm = answer.take(&name("b")).unwrap().unwrap();
    assert_eq!(vm.name, name("b"));
    assert!(answer.take(&name("b")).is_none() && answer.take(&name("c")).is_none());
    let error = answer.take(&name("a")).unwrap().unwrap_err().to_string();
    assert_eq!(error, "the VM \"a\" does not run");
}

#[test]
fn a_name_is_one_word_to_virsh() {
    assert_eq!(quoted("a b; drop"), "'a b; drop'");
    assert_eq!(quoted("we'ird"), r"'we'\''ird'");
}

#[test]
fn an_end_in_text_is_no_end() {
    let odd = "<domain a='&lt;/domain>'><!-- </domain> --><name><![CDATA[</domain>]]></name>\
        <?p </domain> ?><b x=\"&lt;domain>\"/></domain>";
    let (all, rest) = domains(odd);
    assert_eq!((all.len(), rest), (1, ""));
    assert_eq!(all[0].vm.as_ref().unwrap().name.as_str(), "</domain>");
    let many = format!(
        "<domain><a><![CDATA[{}]]></a></domain>",
        "</domain>".repeat(1_000)
    );
    let (all, rest) = domains(&many);
    assert_eq!((all.len(), rest), (1, ""));
}

#[test]
fn a_domain_that_cannot_be_parsed_hides_no_other_and_is_named() {
    let with = |name: &str, what: &str| {
        format!(
            "<domain type='kvm' id='7'>\n<name>{name}</name>\n<uuid>u-{name}</uuid>\n\
             <devices><a><name>no</name></a></devices>{what}<name>no</name></domain>\n"
        )
    };
    let attributes: String = (0..200).map(|n| format!(" a{n}=''")).collect();
    let long = format!("<!--{}-->", "x".repeat(libvirt::XML_LIMIT));
    for (what, words) in [
        (&*"<a/>".repeat(100_000), "more than 100,000 elements"),
        (&"<a>".repeat(300), "more than 256 levels of elements"),
        (
            &format!("<a{attributes}/>"),
            "more than 100 attributes on one element",
        ),
        (&long, "longer than 4 MiB"),
        ("<a>\u{1}</a>", "not domain XML"),
        ("<a b='' b=''/>", "not domain XML"),
        ("<x:a/>", "not domain XML"),
    ] {
        let ends = "</a>".repeat(if what.starts_with("<a><a>") { 300 } else { 0 });
        let odd = with("o&amp;d", &format!("{what}{ends}"));
        let text = format!("{CAPTURE}\n{odd}\n{CAPTURE}");
        let (all, rest) = domains(&text);
        assert_eq!((all.len(), rest.trim()), (3, ""), "{words}");
        assert!(all[0].vm.is_ok() && all[2].vm.is_ok());
        let odd = &all[1];
        assert_eq!(
            (&*odd.name, &*odd.uuid, odd.is_running),
            ("o&d", "u-o&d", true)
        );
        let error = format!("{:#}", odd.vm.as_ref().unwrap_err());
        assert!(error.contains(words), "{error}");
    }
}
