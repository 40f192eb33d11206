use proptest::prelude::*;
use roxmltree::Node;

use super::*;

const FORMAT: Format = Format {
    name: "the text",
    not_it: "not XML",
};

fn error(xml: &str) -> String {
    format!("{:#}", FORMAT.parse(xml).unwrap_err())
}

/// Makes a document with a given number of something.
type Make<'a> = &'a dyn Fn(usize) -> String;

#[test]
fn a_document_may_reach_each_limit_and_not_go_beyond() {
    let root = |inner: &str| format!("<a>{inner}</a>");
    let elements = |count: usize| root(&"<b/>".repeat(count - 1));
    let levels = |count: usize| format!("{}{}", "<a>".repeat(count), "</a>".repeat(count));
    let named = |prefix: &str, count: usize| -> String {
        (0..count).map(|n| format!(" {prefix}{n}='x'")).collect()
    };
    let on_one = |count: usize| format!("<a{}/>", named("b", count));
    let attributes = |count: usize| root(&"<b c='' d=''/>".repeat(count / 2)) + &" ".repeat(count);
    let namespaces = |count: usize| root(&"<b xmlns:c='d'/>".repeat(count));
    let texts = |count: usize| root(&"<!---->".repeat(count));
    let split = |count: usize| root(&"x<![CDATA[y]]>".repeat(count / 2));
    let marks = |count: usize| root(&"=".repeat(count - 2));
    let all: [(Make, usize, &str); 8] = [
        (&elements, 100_000, "100,000 elements"),
        (&levels, 256, "256 levels of elements"),
        (&on_one, 100, "100 attributes on one element"),
        (&attributes, 100_000, "100,000 attributes"),
        (&namespaces, 100, "100 namespaces"),
        (&texts, 400_000, "400,000 pieces of text and comments"),
        (&split, 400_000, "400,000 pieces of text and comments"),
        (&marks, 4_000_000, "4,000,000 characters `<` and `=`"),
    ];
    for (make, most, words) in all {
        assert!(FORMAT.parse(&make(most)).is_ok(), "{words}");
        let error = error(&make(most + 2));
        assert_eq!(error, format!("the text has more than {words}"));
    }
}

#[test]
fn text_of_any_length_is_one_piece() {
    let script = format!("<a>{}</a>", "if (a &lt; b) &#38; c = 1;\n".repeat(20_000));
    assert!(FORMAT.parse(&script).is_ok());
    let script = format!("<a><![CDATA[{}]]></a>", "</a><b c='d'>".repeat(20_000));
    assert!(FORMAT.parse(&script).is_ok());
}

#[test]
fn a_parsers_message_is_shortened() {
    for xml in [
        format!("<{}></b>", "a".repeat(5_000)),
        format!("<a><{0}:b/></a>", "c".repeat(5_000)),
    ] {
        let error = error(&xml);
        assert!(
            error.starts_with("not XML: ") && error.len() < 200,
            "{error}"
        );
    }
    assert!(error("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>").contains("DTD"));
}

#[test]
fn no_byte_is_parsed_twice() {
    // Each part looks as if it ended early.
    let part = "<a b='&lt;/a>'><!-- </a> --><a><![CDATA[</a><a>]]></a><?p </a> ?></a>\n";
    for count in [1, 10, 100] {
        let text = part.repeat(count);
        let (parts, rest) = FORMAT.split(&text);
        assert_eq!((parts.len(), rest), (count, "\n"));
        let parsed: usize = parts.iter().map(|part| part.xml.len()).sum();
        assert!(parsed <= text.len());
        assert!(parts.into_iter().all(|part| part.parse().is_ok()));
    }
}

/// The tokenizer's counts.
fn counted(xml: &str) -> Size {
    let mut reader = Reader::from_str(xml);
    let mut size = Size::default();
    loop {
        match reader.read_event().unwrap() {
            Event::Eof => return size,
            event => size.add(&FORMAT, &event).unwrap(),
        }
    }
}

/// Checks that we accept each document that the parser accepts, and that it has no more than we counted.
fn sees_no_more_than_is_counted(xml: &str) {
    let Ok(document) = Document::parse(xml) else {
        return;
    };
    assert!(FORMAT.parse(xml).is_ok(), "{xml}");
    let size = counted(xml);
    let elements: Vec<_> = document.descendants().filter(Node::is_element).collect();
    let attributes: usize = elements.iter().map(|node| node.attributes().len()).sum();
    let others = document.descendants().count() - 1 - elements.len();
    assert_eq!((size.elements, size.levels), (elements.len(), 0), "{xml}");
    assert!(size.attributes >= attributes, "{xml}");
    assert!(size.texts >= others, "{xml}");
}

#[test]
fn both_parsers_read_the_same() {
    for (xml, attributes) in [
        ("<a b='1' c=\"2\"\td = '>'/>", 3),
        (
            "\u{feff}<?xml version='1.0'?><!----><a xmlns='x' xmlns:y='z' y:b='/>'></a >\n",
            3,
        ),
        (
            "<a><!-->--><?x ?>?><![CDATA[<b/>]]]]>&amp;&#60;b/&gt;</a>",
            0,
        ),
    ] {
        assert!(FORMAT.parse(xml).is_ok(), "{xml}");
        assert_eq!(
            (counted(xml).elements, counted(xml).attributes),
            (1, attributes)
        );
        sees_no_more_than_is_counted(xml);
    }
}

/// Generates mostly whole markup, and sometimes a fragment.
fn markup() -> impl Strategy<Value = &'static str> {
    let whole = [
        "<b/>",
        "<b c='>' d=\"'/>\"/>",
        "<e>",
        "</e>",
        "<e></e>",
        "<!-- > -->",
        "<!-->-->",
        "x",
        "]]",
        "]",
        " ",
        "<![CDATA[<b>]]>",
        "<![CDATA[]]]]>",
        "<?e ?>",
        "<?e <b/>?>",
        "&lt;",
        "&#60;",
        "\n",
        "\u{e9}",
        ">",
        "'",
        "<e xmlns:f='g' f:h=''><f:i/></e>",
        "<b\nc = ''\td=''/>",
        "<e/ >",
        "</e >",
        "\"",
        "=",
        "-",
    ];
    let pieces = [
        "<b c='",
        " d=\"",
        "/>",
        "<!--",
        "-->",
        "<![CDATA[",
        "]]>",
        "<?e",
        "?>",
        "?",
        "&",
        ";",
        "<",
        "</",
    ];
    prop_oneof![
        12 => prop::sample::select(whole.to_vec()),
        1 => prop::sample::select(pieces.to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_parser_sees_no_more_than_is_counted(inner in prop::collection::vec(markup(), 0..10)) {
        sees_no_more_than_is_counted(&format!("<a>{}</a>", inner.concat()));
    }
}
