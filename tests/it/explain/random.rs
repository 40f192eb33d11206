//! Thousands of questions on random hosts: the answer is what a real frame does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use macfence::backend::ebtables::Ebtables;
use macfence::backend::nft::Nft;
use macfence::backend::{Backend, Choice};
use macfence::cli::Cli;
use macfence::commands::explain::Scene;
use macfence::config::Config;
use macfence::explain::Claim;
use macfence::fence::{Addresses, Fence, Guard, Hears, Keep, LinkLocal};
use macfence::mac::{MacAddr, MacPrefix};

use crate::dice::Dice;
use crate::lab::frame::{number, numbered};
use crate::lab::packet::{ARP, Arp, IPV4, IPV6, UDP, ether, ipv4, ipv6, udp};
use crate::lab::{Host, Tap, need};

/// Somebody at a port; whose port is not fenced has no guard.
struct Party {
    vm: String,
    bridge: &'static str,
    port: String,
    mac: MacAddr,
    guard: Option<Guard>,
    tap: Tap,
}

/// Addresses that are nobody's: a router's, one of the same make, and VMs' of other hosts.
const STRANGERS: [&str; 4] = [
    "00:16:3e:00:00:01",
    "00:16:3e:00:00:02",
    "02:00:c0:a8:00:63",
    "02:00:c0:a8:01:63",
];

const IPS: [&str; 5] = [
    "192.168.0.5",
    "10.9.9.9",
    "2001:db8::5",
    "2001:db8::6",
    "fe80::99",
];

fn mac(text: &str) -> MacAddr {
    text.parse().unwrap()
}

fn hears(dice: &mut Dice, own: MacAddr) -> Hears {
    if dice.once_in(6) {
        return Hears::All;
    }
    let len = dice.pick(&[40, 40, 40, 32, 48]).try_into().unwrap();
    let mut trusted: Vec<MacPrefix> = Vec::new();
    if dice.once_in(2) {
        let who = [
            "00:16:3e:00:00:01",
            "00:16:3e:00:00:00/24",
            "02:00:c0:a8:01:00/40",
        ];
        trusted.push(dice.pick(&who).parse().unwrap());
    }
    Hears::Network {
        prefix: MacPrefix::of(own, len),
        trusted,
        trusted_ports: if dice.once_in(4) {
            vec!["br0b".parse().unwrap()]
        } else {
            Vec::new()
        },
    }
}

fn guard(dice: &mut Dice, port: &str, own: MacAddr) -> Guard {
    let hears = hears(dice, own);
    let mut guard = Guard::new(port.parse().unwrap(), own, hears);
    if dice.once_in(4) {
        guard.extra_macs = vec![mac("00:00:5e:00:01:07")];
    }
    if dice.once_in(2) {
        let v4: Ipv4Addr = IPS[0].parse().unwrap();
        let v6: Ipv6Addr = IPS[2].parse().unwrap();
        guard.addresses = Some(Addresses {
            v4: vec![v4],
            v6: vec![v6],
            link_local: dice.pick(&[LinkLocal::Eui64, LinkLocal::Any]),
        });
    }
    guard
}

/// Two bridges with up to eight VMs, an uplink each and a port of the host.
fn parties(dice: &mut Dice, host: &Host) -> Vec<Party> {
    let mut parties = Vec::new();
    host.bridge("br0");
    host.bridge("br1");
    for n in 0..5 + dice.below(4) {
        let bridge = dice.pick(&["br0", "br0", "br1"]);
        let port = format!("one-{n}-0");
        let own = MacAddr::new([2, 0, 0xc0, 0xa8, dice.below(2) as u8, n as u8 + 1]);
        let is_fenced = !dice.once_in(5);
        parties.push(Party {
            vm: format!("one-{n}"),
            bridge,
            tap: host.tap(bridge, &port),
            guard: is_fenced.then(|| guard(dice, &port, own)),
            port,
            mac: own,
        });
    }
    for (bridge, port, n) in [("br0", "eth0", 1), ("br0", "br0b", 2), ("br1", "eth1", 3)] {
        parties.push(Party {
            vm: String::new(),
            bridge,
            port: port.to_owned(),
            mac: MacAddr::new([0x52, 0x54, 0, 0, 0, n]),
            guard: None,
            tap: host.tap(bridge, port),
        });
    }
    parties
}

/// Settings of the bridge that decide as well.
fn upset_bridge(dice: &mut Dice, host: &Host, parties: &[Party]) {
    for party in parties {
        let port = &party.port;
        if dice.once_in(6) {
            host.ip(&format!("link set {port} type bridge_slave isolated on\n"));
        }
        if dice.once_in(14) {
            host.ip(&format!("link set {port} down\n"));
        } else if dice.once_in(10) {
            host.ip(&format!("link set {port} type bridge_slave flood off\n"));
        }
        if party.guard.is_some() && dice.once_in(6) {
            let at = &parties[dice.below(parties.len())];
            if at.bridge == party.bridge {
                let mac = party.mac.to_string();
                host.ok(
                    "bridge",
                    &["fdb", "add", &mac, "dev", &at.port, "master", "static"],
                );
            }
        }
    }
}

/// Takes a rule out of a VM's chain, or an entry out of the map.
fn damage(dice: &mut Dice, host: &Host) {
    if dice.once_in(4) {
        let map = host.ok("nft", &["list", "map", "bridge", "macfence", "ports"]);
        let ports: Vec<_> = map
            .split('"')
            .filter(|word| word.starts_with("one-"))
            .collect();
        let element = format!("{{ \"{}\" }}", dice.pick(&ports));
        host.ok(
            "nft",
            &["delete", "element", "bridge", "macfence", "ports", &element],
        );
        return;
    }
    let listing = host.ok("nft", &["-a", "list", "table", "bridge", "macfence"]);
    let mut chain = "";
    let mut rules = Vec::new();
    for line in listing.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("chain ") {
            chain = rest.split(' ').next().unwrap();
        } else if let (true, Some((_, handle))) =
            (chain.starts_with("vm-"), line.split_once(" # handle "))
        {
            rules.push((chain, handle));
        }
    }
    let (chain, handle) = dice.pick(&rules);
    host.ok(
        "nft",
        &[
            "delete", "rule", "bridge", "macfence", chain, "handle", handle,
        ],
    );
}

fn packet(claim: Claim, src: MacAddr, dst: MacAddr) -> Vec<u8> {
    let arp = |ip: Ipv4Addr| {
        let arp = Arp {
            operation: 1,
            mac: src,
            ip,
            target: Ipv4Addr::new(192, 168, 0, 9),
        };
        ether(src, dst, ARP, &arp.bytes())
    };
    match claim {
        // What every VM may send: it asks whether an address is free.
        Claim::Nothing => arp(Ipv4Addr::UNSPECIFIED),
        Claim::Arp(ip) => arp(ip),
        Claim::Ip(IpAddr::V4(ip)) => {
            let packet = ipv4(ip, Ipv4Addr::new(192, 168, 0, 9), UDP, &udp(9, 9));
            ether(src, dst, IPV4, &packet)
        }
        Claim::Ip(IpAddr::V6(ip)) => {
            let to = "2001:db8::9".parse().unwrap();
            ether(src, dst, IPV6, &ipv6(ip, to, UDP, &udp(9, 9)))
        }
    }
}

/// What was asked on all hosts.
#[derive(Debug, Default)]
struct Tally {
    asked: u32,
    heard: u32,
    not_heard: u32,
    unknown: u32,
}

/// A question: who, which port its frame comes in by, to whom, and what.
struct Question {
    from: String,
    sender: usize,
    to: usize,
    source: Option<MacAddr>,
    claim: Claim,
}

fn questions(dice: &mut Dice, parties: &[Party]) -> Vec<Question> {
    let mut all = Vec::new();
    let strangers = STRANGERS.map(mac);
    let everybody: Vec<_> = parties.iter().map(|p| p.mac).chain(strangers).collect();
    let named = |dice: &mut Dice, party: &Party| match (&party.guard, dice.below(3)) {
        (Some(_), 0) => party.vm.clone(),
        (Some(_), 1) => party.mac.to_string(),
        _ => party.port.clone(),
    };
    for (sender, from) in parties.iter().enumerate() {
        for to in 0..parties.len() {
            let own = from.guard.is_none().then_some(from.mac);
            let mut sources = vec![
                own,
                Some(dice.pick(&everybody)),
                Some(dice.pick(&strangers)),
            ];
            if from
                .guard
                .as_ref()
                .is_some_and(|guard| !guard.extra_macs.is_empty())
            {
                sources.push(Some(mac("00:00:5e:00:01:07")));
            }
            let mut ask = |dice: &mut Dice, source, claim| {
                all.push(Question {
                    from: named(dice, from),
                    sender,
                    to,
                    source,
                    claim,
                });
            };
            for source in sources {
                ask(dice, source, Claim::Nothing);
            }
            let ip: IpAddr = dice.pick(&IPS).parse().unwrap();
            ask(dice, own, Claim::Ip(ip));
            if let IpAddr::V4(ip) = ip {
                let ip = dice.pick(&[ip, Ipv4Addr::UNSPECIFIED]);
                ask(dice, own, Claim::Arp(ip));
            }
        }
    }
    // Addresses that are nobody's come in by the uplink.
    for stranger in STRANGERS {
        for (to, party) in parties.iter().enumerate() {
            let is_uplink = |p: &Party| p.port.starts_with("eth") && p.bridge == party.bridge;
            let sender = parties.iter().position(is_uplink).unwrap();
            // A port that is down or isolated is not "an unfenced port": nobody knows which it is.
            if sender != to {
                all.push(Question {
                    from: stranger.to_owned(),
                    sender,
                    to,
                    source: None,
                    claim: Claim::Nothing,
                });
            }
        }
    }
    all
}

fn config() -> Config {
    let args = ["macfence", "list"].map(Into::into);
    Config::new(Cli::read(args).global).unwrap()
}

/// Asks everything on one host; the program itself is asked once in so many times.
fn check_host(seed: u64, choice: Choice, is_damaged: bool, tally: &mut Tally) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let host = Host::new();
    let is_nft = choice == Choice::Nft;
    let parties = parties(&mut dice, &host);
    let fence = |party: &Party| {
        let guards = vec![party.guard.clone()?];
        let vm = party.vm.parse().unwrap();
        Some(Fence { vm, guards })
    };
    let fences: Vec<_> = parties.iter().filter_map(fence).collect();
    let backend: &(dyn Backend + Sync) = if is_nft { &Nft } else { &Ebtables };
    host.run(|| backend.enforce(&fences, &Keep::nothing()).unwrap());
    let is_upset = seed.is_multiple_of(2);
    if is_upset {
        upset_bridge(&mut dice, &host, &parties);
    }
    if is_damaged {
        damage(&mut dice, &host);
    }
    let mut questions = questions(&mut dice, &parties);
    if is_damaged {
        // Whose an address is may be lost with a rule, and no hypervisor is here to tell.
        let own = |question: &Question| parties[question.sender].mac.to_string();
        for question in &mut questions {
            if question.from == own(question) {
                question.from.clone_from(&parties[question.sender].port);
            }
        }
    }
    if !is_nft {
        // Rules of ebtables name no VM, and no hypervisor is here to tell.
        for question in &mut questions {
            if question.from == parties[question.sender].vm {
                question.from.clone_from(&parties[question.sender].port);
            }
        }
    }
    if is_upset {
        questions.retain(|question| !STRANGERS.contains(&question.from.as_str()));
    }
    for party in &parties {
        party.tap.heard();
    }
    let mut wrong = Vec::new();
    let mut sample = Vec::new();
    host.run(|| {
        let config = config();
        let scene = Scene::look(&config, backend).unwrap();
        for (n, question) in questions.iter().enumerate() {
            let (sender, to) = (&parties[question.sender], &parties[question.to]);
            let answer = scene.ask(&question.from, &to.port, question.source, question.claim);
            let answer = answer.unwrap_or_else(|e| panic!("seed {seed}: {e:#}"));
            let id = n as u32;
            let frame = packet(question.claim, answer.frame.source, to.mac);
            // A port that is down takes none.
            sender.tap.try_send(&numbered(frame, id));
            let is_heard = to.tap.heard().iter().any(|frame| number(frame) == Some(id));
            tally.asked += 1;
            match answer.is_heard() {
                None => tally.unknown += 1,
                Some(true) => tally.heard += 1,
                Some(false) => tally.not_heard += 1,
            }
            let is_right = answer
                .is_heard()
                .map_or(is_damaged, |said| said == is_heard);
            if !is_right {
                wrong.push((is_heard, format!("{:?}", sender.guard), answer.text()));
            }
            if n % 60 == 0 {
                sample.push((question, answer));
            }
        }
    });
    for (is_heard, guard, text) in wrong.iter().take(3) {
        println!("seed {seed}: really {is_heard}; {guard}\n{text}");
    }
    assert!(
        wrong.is_empty(),
        "seed {seed}: {} wrong answers",
        wrong.len()
    );
    for (question, answer) in sample {
        let mut args = vec!["explain".to_owned(), question.from.clone()];
        args.push(parties[question.to].port.clone());
        args.extend(question.source.map(|mac| format!("--as={mac}")));
        args.extend(match question.claim {
            Claim::Nothing => None,
            Claim::Arp(ip) => Some(format!("--arp={ip}")),
            Claim::Ip(ip) => Some(format!("--ip={ip}")),
        });
        args.push(format!("--backend={}", backend.name()));
        let ran = host.macfence(&args);
        let status = answer.is_heard().map_or(2, |heard| i32::from(!heard));
        assert_eq!(ran.status, status, "{args:?}: {ran:?}");
        let sentence = answer.sentence();
        assert_eq!(
            ran.stdout.lines().last(),
            Some(sentence.as_str()),
            "{args:?}"
        );
    }
}

#[test]
fn the_answer_is_what_frames_do_with_nft() {
    let mut tally = Tally::default();
    for seed in 1..=8 {
        check_host(seed, Choice::Nft, false, &mut tally);
    }
    println!("{tally:?}");
    assert!(tally.asked > 2_500, "{tally:?}");
    assert!(tally.heard > 300 && tally.not_heard > 300, "{tally:?}");
    assert_eq!(tally.unknown, 0);
}

#[test]
fn the_answer_is_what_frames_do_with_ebtables() {
    need("ebtables");
    let mut tally = Tally::default();
    for seed in 21..=26 {
        check_host(seed, Choice::Ebtables, false, &mut tally);
    }
    println!("{tally:?}");
    assert!(tally.asked > 1_800, "{tally:?}");
    assert!(tally.heard > 200 && tally.not_heard > 200, "{tally:?}");
    assert_eq!(tally.unknown, 0);
}

#[test]
fn of_a_damaged_fence_the_answer_is_what_frames_do_or_that_it_cannot_be_known() {
    let mut tally = Tally::default();
    for seed in 41..=48 {
        check_host(seed, Choice::Nft, true, &mut tally);
    }
    println!("{tally:?}");
    assert!(tally.asked > 2_500, "{tally:?}");
    assert!(
        tally.unknown > 0 && tally.unknown < tally.asked / 2,
        "{tally:?}"
    );
}
