use super::*;

fn vm(name: &str, nics: &[(&str, &str)]) -> Vm {
    let nic = |(port, mac): &(&str, &str)| {
        Nic::new(port.parse().unwrap(), mac.parse().unwrap(), None).unwrap()
    };
    Vm {
        name: name.parse().unwrap(),
        nics: nics.iter().map(nic).collect(),
        skipped: Vec::new(),
    }
}

#[test]
fn a_port_or_a_name_claimed_twice_is_refused() {
    let a = vm("a", &[("p0", "2:0:0:0:0:1")]);
    let b = vm("b", &[("p0", "2:0:0:0:0:2")]);
    let error = check_distinct(&[a.clone(), b]).unwrap_err().to_string();
    assert_eq!(error, r#"port "p0" is claimed twice, by VM "a" and VM "b""#);
    let error = check_distinct(&[a.clone(), a]).unwrap_err().to_string();
    assert_eq!(error, r#"VM "a" is described twice"#);
}

#[test]
fn a_port_name_that_nft_or_linux_would_misread_is_refused_by_name() {
    let long = "x".repeat(16);
    for text in [
        "",
        ".",
        "..",
        "vnet*",
        "a/b",
        "a b",
        "a\nb",
        "a\"b",
        "a\\b",
        "a:b",
        "@ports",
        "udp",
        "à",
        "a\u{1b}[0m",
        "\u{2003}",
        &long,
    ] {
        let error = text.parse::<Port>().unwrap_err().to_string();
        assert!(
            text.is_empty() || error.contains(&format!("{text:?}")),
            "{error}"
        );
    }
    for text in [
        "vnet0",
        "one-42-0",
        "vif3.0-emu",
        "x@y",
        "日本",
        "-c",
        "...",
        "fifteen-bytes-x",
    ] {
        assert_eq!(text.parse::<Port>().unwrap().as_str(), text);
    }
}

#[test]
fn a_name_is_as_long_as_that_of_a_file_and_a_long_one_is_not_quoted_as_a_whole() {
    for len in [255, 256, 10 << 20] {
        let name = "x".repeat(len).parse::<VmName>();
        assert_eq!(name.is_ok(), len == 255);
        if let Err(e) = name {
            let begins = format!("the VM's name \"{}\"...", "x".repeat(100));
            assert_eq!(e.to_string(), begins + " is longer than 255 bytes");
        }
        let error = "x".repeat(len).parse::<Port>().unwrap_err().to_string();
        assert!(error.len() < 200, "{error}");
    }
}

#[test]
fn a_nic_needs_an_address_that_a_station_can_have() {
    let nic = |mac: &str| Nic::new("vnet0".parse().unwrap(), mac.parse().unwrap(), None);
    assert!(nic("02:00:c0:a8:00:05").is_ok());
    for mac in [
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
    ] {
        assert!(nic(mac).unwrap_err().to_string().contains("vnet0"), "{mac}");
    }
}

#[test]
fn only_names_of_opennebulas_form_have_a_number() {
    let id = |name: &str| name.parse::<VmName>().unwrap().one_id().map(str::to_owned);
    assert_eq!(id("one-42").as_deref(), Some("42"));
    for name in ["one-", "one-4x", "one--4", "xone-42", "ONE-42", "one-٤"] {
        assert_eq!(id(name), None, "{name}");
    }
}

#[test]
fn a_name_is_printed_without_its_control_characters() {
    let name: VmName = "a\u{1b}[31m\nb日本".parse().unwrap();
    assert_eq!(name.to_string(), "a\\u{1b}[31m\\nb日本");
}
