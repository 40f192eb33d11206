//! Brings nft's listings to one spelling. Versions of nft spell some matches differently, and hosts
//! differ in `/etc/protocols`. *Measured* with nft 0.9.8, 1.0.6 and 1.1.3.

use std::net::Ipv6Addr;

use serde_json::{Value, json};

/// The protocol numbers in our rules, by the names that nft finds in `/etc/protocols`.
const PROTOCOLS: [(&str, u32); 7] = [
    ("ip", 0),
    ("hopopt", 0),
    ("udp", 17),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("ipv6-icmp", 58),
    ("ipv6-opts", 60),
];

/// EtherTypes by the names that some versions use.
const ETHER_TYPES: [(&str, u32); 3] = [("vlan", 0x8100), ("8021q", 0x8100), ("8021ad", 0x88a8)];

/// Brings the matches of a rule to one spelling, if it has a comment. All our rules with differing
/// spellings have one, and a host may have ten thousand rules without.
pub fn unify(rule: &mut Value) {
    if rule.get("comment").is_none() {
        return;
    }
    let statements = rule.get_mut("expr").and_then(Value::as_array_mut);
    for statement in statements.into_iter().flatten() {
        if let Some(matched) = statement.get_mut("match") {
            unify_match(matched);
        }
    }
}

fn unify_match(matched: &mut Value) {
    let Some(mut right) = matched.get_mut("right").map(Value::take) else {
        return;
    };
    if let Some(left) = matched.get_mut("left") {
        // nft 1.1 knows the target of a neighbour advertisement by name.
        if is_field(left, "icmpv6", "taddr") {
            *left = json!({"payload": {"base": "th", "offset": 64, "len": 128}});
            let target = right.as_str().and_then(|text| text.parse().ok());
            if let Some(target) = target.map(Ipv6Addr::to_bits) {
                right = format!("{target:#x}").into();
            }
        }
        let names = names_of(left);
        let set = right.get_mut("set").and_then(Value::as_array_mut);
        set.into_iter()
            .flatten()
            .for_each(|value| by_number(value, names));
        by_number(&mut right, names);
        if has_more_than_32_bits(left)
            && let Some(number) = right.as_u64()
        {
            right = format!("{number:#x}").into();
        } else if is_field(left, "ip6", "saddr")
            && let Some(address) = right
                .as_str()
                .and_then(|text| text.parse::<Ipv6Addr>().ok())
        {
            // The C library and Rust's write some addresses differently.
            right = address.to_string().into();
        }
    }
    if let Some(place) = matched.get_mut("right") {
        *place = right;
    }
}

fn by_number(value: &mut Value, names: &[(&str, u32)]) {
    if let Some((_, number)) = names.iter().find(|(name, _)| *value == *name) {
        *value = (*number).into();
    }
}

/// Returns the names that nft may list for values of this expression.
fn names_of(left: &Value) -> &'static [(&'static str, u32)] {
    let is_protocol = is_field(left, "ip", "protocol") || is_field(left, "ip6", "nexthdr");
    if is_protocol
        || left
            .pointer("/exthdr/field")
            .is_some_and(|field| field == "nexthdr")
    {
        &PROTOCOLS
    } else if left
        .pointer("/meta/key")
        .is_some_and(|key| key == "protocol")
    {
        &ETHER_TYPES
    } else {
        &[]
    }
}

fn is_field(left: &Value, protocol: &str, field: &str) -> bool {
    let is = |key, value| left.pointer(key).is_some_and(|actual| actual == value);
    is("/payload/protocol", protocol) && is("/payload/field", field)
}

/// Tells whether nft lists a number of more than 32 bits, which the `nftables` crate cannot read.
fn has_more_than_32_bits(left: &Value) -> bool {
    let len = left.pointer("/payload/len").and_then(Value::as_u64);
    len.is_some_and(|len| len > 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_spellings_become_the_same() {
        let bits =
            |base, offset, len| json!({"payload": {"base": base, "offset": offset, "len": len}});
        let field = |protocol, field| json!({"payload": {"protocol": protocol, "field": field}});
        let next = json!({"exthdr": {"name": "frag", "field": "nexthdr"}});
        let protocol = json!({"meta": {"key": "protocol"}});
        let target = "0xfe800000000000000000c0fffea80005";
        for (left, right, new_left, new_right) in [
            (
                field("icmpv6", "taddr"),
                json!("fe80::c0ff:fea8:5"),
                bits("th", 64, 128),
                json!(target),
            ),
            (
                bits("th", 64, 128),
                json!(target),
                bits("th", 64, 128),
                json!(target),
            ),
            (
                bits("th", 64, 128),
                json!(1),
                bits("th", 64, 128),
                json!("0x1"),
            ),
            (
                bits("nh", 64, 48),
                json!(2_202_255_491_077_u64),
                bits("nh", 64, 48),
                json!("0x200c0a80005"),
            ),
            (bits("nh", 112, 32), json!(7), bits("nh", 112, 32), json!(7)),
            (
                field("ip", "protocol"),
                json!("udp"),
                field("ip", "protocol"),
                json!(17),
            ),
            (
                field("ip6", "nexthdr"),
                json!("ip"),
                field("ip6", "nexthdr"),
                json!(0),
            ),
            (next.clone(), json!("ipv6-opts"), next.clone(), json!(60)),
            (
                next.clone(),
                json!({"set": ["ipv6-route", 44]}),
                next,
                json!({"set": [43, 44]}),
            ),
            (
                protocol.clone(),
                json!("vlan"),
                protocol.clone(),
                json!(0x8100),
            ),
            (protocol.clone(), json!("ip"), protocol, json!("ip")),
            (
                field("ip6", "saddr"),
                json!("::1.2.3.4"),
                field("ip6", "saddr"),
                json!("::102:304"),
            ),
        ] {
            let rule = |left, right| json!({"expr": [{"match": {"left": left, "right": right}}], "comment": "x"});
            let mut listed = rule(left, right);
            unify(&mut listed);
            assert_eq!(listed, rule(new_left, new_right));
        }
    }
}
