//! A bridge that snoops sends multicast only to members, as soon as somebody asks who they are. So
//! whoever asks decides who hears. No VM may ask, and the questions of a querier on the cable must
//! reach every VM.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use macfence::mac::MacAddr;

use super::queries::{is_query, leave, plain_queries, queries, reports, to_groups};
use super::{
    BYSTANDER, Firewall, INSIDER, NEIGHBOUR, OUTSIDER, Party, ROUTER, Scene, Settings, VICTIM, mac,
    port, xml,
};

/// A querier on the cable that nobody trusts.
const QUERIER: MacAddr = MacAddr::new([0, 0x11, 0x22, 0x33, 0x44, 0x55]);

/// Longer than the time that queries allow for answers.
const TOO_LATE: Duration = Duration::from_millis(150);

/// Returns the ports at which the bridge believes a querier.
fn router_ports(scene: &Scene) -> Vec<String> {
    let json = scene
        .host
        .ok("bridge", &["-d", "-j", "mdb", "show", "dev", "br0"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let ports = json[0]["router"]["br0"].as_array();
    let name = |port: &serde_json::Value| port["port"].as_str().unwrap().to_owned();
    ports.into_iter().flatten().map(name).collect()
}

/// Makes the bridge forget the querier at a port.
fn forget_router(scene: &Scene, party: Party) {
    let file = format!("{}/brport/multicast_router", port(party));
    scene.host.set_device(&file, "0");
    scene.host.set_device(&file, "1");
}

/// Tells, for each of the two groups, whether a datagram to it gets from one party to the other.
fn is_delivered(scene: &Scene, from: Party, to: Party, id: u32) -> [bool; 2] {
    to_groups(mac(from), id).map(|frame| scene.hearers(from, &frame).contains(&to))
}

/// Checks that the bridge takes no VM for a querier.
pub fn check_queries_of_vms(firewall: Firewall) {
    let scene = Scene::fenced(firewall, Settings::default());
    let readable = |tagged| !(tagged && matches!(firewall, Firewall::Ebtables));
    let mut id = 0;
    for query in queries().iter().filter(|query| readable(query.is_tagged)) {
        for sender in [INSIDER, OUTSIDER] {
            id += 1;
            let hearers = scene.hearers(sender, &query.frame(mac(sender), id));
            assert!(hearers.is_empty(), "{} is heard by {hearers:?}", query.name);
        }
    }
    assert_eq!(router_ports(&scene), [""; 0]);
    // Nobody may ask, so members need not answer, and still hear their groups.
    sleep(TOO_LATE);
    assert_eq!(is_delivered(&scene, VICTIM, NEIGHBOUR, id + 1), [true; 2]);
    assert_eq!(is_delivered(&scene, OUTSIDER, BYSTANDER, id + 2), [true; 2]);
}

/// Checks that every fenced VM hears the queries of a querier on the cable, and none of its other
/// frames.
pub fn check_queries_of_others(firewall: Firewall) {
    let scene = Scene::fenced(firewall, Settings::default());
    let readable = |tagged| !(tagged && matches!(firewall, Firewall::Ebtables));
    let asked = queries();
    let asked = asked
        .iter()
        .filter(|q| readable(q.is_tagged) && !q.is_fragment);
    for (id, query) in asked.enumerate() {
        let hearers = scene.hearers(ROUTER, &query.frame(QUERIER, id as u32));
        let all: Vec<_> = (VICTIM..ROUTER).collect();
        // A query about one group reaches only routers and members once the bridge knows a querier.
        if query.is_general {
            assert_eq!(hearers, all, "{}", query.name);
        }
    }
    assert_eq!(router_ports(&scene), [port(ROUTER)]);
    forget_router(&scene, ROUTER);
    let others = [
        reports(QUERIER, 1),
        vec![leave(QUERIER, 1)],
        to_groups(QUERIER, 1).into(),
    ];
    for frame in others.concat() {
        let hearers = scene.hearers(ROUTER, &frame);
        assert!(hearers.is_empty(), "{frame:02x?} is heard by {hearers:?}");
    }
}

/// Simulates ten minutes of queriers and members in three seconds. A VM of the other network asks
/// all the time; a querier on the cable asks if `has_querier`. Returns how many datagrams to groups
/// arrived, and how many were sent.
fn pass_time(scene: &Scene, has_querier: bool) -> (usize, usize) {
    // In hundredths of a second, 200 times shorter than the defaults: how long the bridge remembers
    // a member and a querier.
    let intervals = [("membership", 130), ("querier", 127), ("last_member", 1)];
    for (interval, value) in intervals {
        let file = format!("br0/bridge/multicast_{interval}_interval");
        scene.host.set_device(&file, &value.to_string());
    }
    let is_member = |party: &Party| [NEIGHBOUR, BYSTANDER].contains(party);
    let answer = |party: Party| {
        for report in reports(mac(party), u32::MAX) {
            scene.taps[party].send(&report);
        }
    };
    (VICTIM..ROUTER).filter(is_member).for_each(answer);
    let (mut heard, mut sent, mut id) = (0, 0, 0);
    let start = Instant::now();
    let mut asked = None::<Instant>;
    while start.elapsed() < Duration::from_secs(3) {
        let mut ask = |party: Party, src| {
            for query in plain_queries() {
                id += 1;
                scene.taps[party].send(&query.frame(src, id));
            }
        };
        ask(OUTSIDER, mac(OUTSIDER));
        if has_querier && asked.is_none_or(|at| at.elapsed() > Duration::from_millis(625)) {
            ask(ROUTER, QUERIER);
            asked = Some(Instant::now());
        }
        for party in (VICTIM..ROUTER).filter(is_member) {
            if scene.taps[party]
                .heard()
                .iter()
                .any(|frame| is_query(frame))
            {
                answer(party);
            }
        }
        sleep(Duration::from_millis(40));
        for (from, to) in [(VICTIM, NEIGHBOUR), (OUTSIDER, BYSTANDER)] {
            id += 1;
            let delivered = is_delivered(scene, from, to, id);
            heard += delivered.into_iter().filter(|delivered| *delivered).count();
            sent += 2;
        }
    }
    (heard, sent)
}

/// Simulates that on two hosts at once: one without a querier on the cable, one with.
fn pass_time_twice(scene: impl Fn() -> Scene + Sync) -> [(usize, usize); 2] {
    thread::scope(|scope| {
        let scene = &scene;
        let run = |has_querier| scope.spawn(move || pass_time(&scene(), has_querier));
        [false, true]
            .map(run)
            .map(|running| running.join().unwrap())
    })
}

/// Checks that multicast keeps working over time.
pub fn check_time(firewall: Firewall) {
    let scene = || Scene::fenced(firewall, Settings::default());
    for (heard, sent) in pass_time_twice(scene) {
        assert!(sent > 100, "{sent}");
        assert_eq!(heard, sent, "{firewall:?}");
    }
}

#[test]
fn nobody_hears_a_vms_query_and_the_bridge_does_not_believe_it() {
    check_queries_of_vms(Firewall::Nft);
}

#[test]
fn with_ebtables_no_untagged_query_of_a_vm_is_heard_or_believed() {
    check_queries_of_vms(Firewall::Ebtables);
}

#[test]
fn all_hear_the_queries_of_an_untrusted_querier_on_the_cable_and_none_of_its_other_frames() {
    check_queries_of_others(Firewall::Nft);
}

#[test]
fn with_ebtables_all_hear_the_queries_of_a_querier_on_the_cable_too() {
    check_queries_of_others(Firewall::Ebtables);
}

#[test]
fn multicast_works_for_ten_minutes_with_and_without_a_querier() {
    check_time(Firewall::Nft);
}

#[test]
fn with_ebtables_multicast_works_for_ten_minutes_with_and_without_a_querier() {
    check_time(Firewall::Ebtables);
}

#[test]
fn the_nft_of_debian_bullseye_and_trixie_drop_queries_of_vms_too() {
    for version in ["0.9.8", "1.1.3"] {
        check_queries_of_vms(Firewall::OtherNft(version));
        check_queries_of_others(Firewall::OtherNft(version));
    }
}

#[test]
fn if_the_configuration_allows_it_a_vms_queries_are_heard_and_believed() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("macfence.toml");
    std::fs::write(&config, "multicast-querier = true\n").unwrap();
    for firewall in [Firewall::Nft, Firewall::Ebtables] {
        let scene = Scene::new(firewall, Settings::default());
        for party in VICTIM..ROUTER {
            let args = ["--config", config.to_str().unwrap(), "apply", "--xml", "-"];
            firewall.macfence(&scene.host, &args, &xml(party)).ok();
        }
        scene.introduce();
        for (id, query) in plain_queries().iter().enumerate() {
            let hearers = scene.hearers(INSIDER, &query.frame(mac(INSIDER), id as u32));
            // In every network: the bridge expects answers from all of them, too.
            for party in (VICTIM..=ROUTER).filter(|party| *party != INSIDER) {
                assert!(
                    hearers.contains(&party),
                    "{} at {}",
                    query.name,
                    port(party)
                );
            }
        }
        assert_eq!(router_ports(&scene), [port(INSIDER)]);
    }
}

#[test]
fn without_a_fence_the_bridge_believes_every_one_of_these_queries() {
    let scene = Scene::new(Firewall::Nft, Settings::default());
    scene.introduce();
    for (id, query) in queries().iter().filter(|q| q.is_general).enumerate() {
        scene.taps[OUTSIDER].send(&query.frame(mac(OUTSIDER), id as u32));
        assert_eq!(router_ports(&scene), [port(OUTSIDER)], "{}", query.name);
        forget_router(&scene, OUTSIDER);
        assert_eq!(router_ports(&scene), [""; 0], "{}", query.name);
    }
}

#[test]
fn without_a_fence_a_query_about_a_group_cuts_off_members_who_do_not_answer() {
    for query in queries().iter().filter(|query| !query.is_general) {
        let scene = Scene::new(Firewall::Nft, Settings::default());
        scene.introduce();
        for report in reports(mac(NEIGHBOUR), 1) {
            scene.taps[NEIGHBOUR].send(&report);
        }
        // Make the bridge send the group's frames to members only.
        let querier = plain_queries().remove(0);
        scene.taps[ROUTER].send(&querier.frame(QUERIER, 2));
        sleep(TOO_LATE);
        assert!(is_delivered(&scene, VICTIM, NEIGHBOUR, 3)[0]);
        scene.taps[OUTSIDER].send(&query.frame(mac(OUTSIDER), 4));
        sleep(2 * TOO_LATE);
        let name = &query.name;
        assert!(!is_delivered(&scene, VICTIM, NEIGHBOUR, 5)[0], "{name}");
    }
}

#[test]
fn behind_version_0_1s_rules_queries_of_another_network_silence_multicast() {
    let scene = Scene::fenced_by_0_1(Settings::default());
    for query in plain_queries() {
        scene.taps[OUTSIDER].send(&query.frame(mac(OUTSIDER), 1));
    }
    assert_eq!(is_delivered(&scene, VICTIM, NEIGHBOUR, 2), [true; 2]);
    sleep(TOO_LATE);
    assert_eq!(is_delivered(&scene, VICTIM, NEIGHBOUR, 3), [false; 2]);
    for (heard, sent) in pass_time_twice(|| Scene::fenced_by_0_1(Settings::default())) {
        assert!(heard < sent * 3 / 4, "{heard} of {sent}");
    }
}
