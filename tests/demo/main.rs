//! The main job, shown: who hears whom on a bridge before and after its VMs are fenced. Ends with
//! an error if it is not what it should be.

#[path = "../lab/mod.rs"]
#[allow(dead_code, reason = "the tests need more of the lab")]
mod lab;

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use lab::frame::{Kind, frame, number};
use lab::{Host, Tap, domain};
use macfence::mac::MacAddr;

/// Somebody at a port of the bridge.
struct Party {
    name: &'static str,
    port: &'static str,
    mac: &'static str,
    /// Which virtual network; none for the uplink.
    network: Option<char>,
}

const PARTIES: [Party; 5] = [
    Party {
        name: "one-1",
        port: "one-1-0",
        mac: "02:00:c0:a8:00:05",
        network: Some('A'),
    },
    Party {
        name: "one-2",
        port: "one-2-0",
        mac: "02:00:c0:a8:00:06",
        network: Some('A'),
    },
    Party {
        name: "one-3",
        port: "one-3-0",
        mac: "02:00:c0:a8:01:05",
        network: Some('B'),
    },
    Party {
        name: "one-4",
        port: "one-4-0",
        mac: "02:00:c0:a8:01:06",
        network: Some('B'),
    },
    Party {
        name: "uplink",
        port: "eth0",
        mac: "52:54:00:12:34:56",
        network: None,
    },
];

/// Who sends under whose address, as places in [`PARTIES`]: everybody under the own one, and a
/// VM of each network under one of the other's.
const SENDERS: [(usize, usize); 7] = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (0, 2), (2, 0)];

fn main() -> ExitCode {
    let paint = Paint(stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let host = Host::new();
    paint.title("A host: one bridge, virtual networks A and B, an uplink");
    host.bridge("br0");
    let taps: Vec<_> = PARTIES
        .iter()
        .map(|party| host.tap("br0", party.port))
        .collect();
    for Party {
        name,
        port,
        mac,
        network,
    } in &PARTIES
    {
        let network = network.map_or(String::new(), |n| format!("  network {n}"));
        println!("  {name:<8}{port:<9}{mac}{network}");
    }

    paint.title("Before: who hears whom");
    let before = hearing(&taps);
    show(&paint, &before);
    let mut good = before == expected(false);

    paint.title("Fencing the VMs, from their libvirt domain XML");
    for Party {
        name, port, mac, ..
    } in PARTIES.iter().filter(|party| party.network.is_some())
    {
        let xml = domain(name, &[(mac, port, "br0")]);
        paint.command(&format!("macfence apply --xml {name}.xml"));
        host.apply(&xml).ok();
    }
    paint.command("nft list ruleset");
    print!("{}", host.ok("nft", &["list", "ruleset"]));

    paint.title("After: who hears whom");
    let after = hearing(&taps);
    show(&paint, &after);
    good &= after == expected(true);
    paint.command("macfence list");
    print!("{}", host.macfence(["list"]).ok());
    paint.command("macfence list --graph");
    print!("{}", host.macfence(["list", "--graph"]).ok());

    paint.title("One VM is removed, the others end and are flushed");
    paint.command("macfence remove one-1");
    host.macfence(["remove", "one-1"]).ok();
    good &= host.fenced() == ["one-2", "one-3", "one-4"];
    drop(taps);
    paint.command("macfence flush");
    host.macfence(["flush"]).ok();
    paint.command("macfence list");
    print!("{}", host.macfence(["list"]).ok());
    good &= host.fenced().is_empty();

    println!();
    if good {
        println!("{}", paint.green("Everything was as it should be."));
        ExitCode::SUCCESS
    } else {
        println!("{}", paint.red("Something was not as it should be."));
        ExitCode::FAILURE
    }
}

type Hearing = Vec<[bool; PARTIES.len()]>;

/// For each sender, who hears its broadcast.
fn hearing(taps: &[Tap]) -> Hearing {
    let parse = |text: &str| text.parse::<MacAddr>().expect("an address");
    let mut hearing = Vec::new();
    for (id, (sender, claimed)) in SENDERS.into_iter().enumerate() {
        let everybody = MacAddr::new([0xff; 6]);
        let bytes = frame(Kind::Arp, parse(PARTIES[claimed].mac), everybody, id as u32);
        taps[sender].send(&bytes);
        let heard = |tap: &Tap| tap.heard().iter().any(|f| number(f) == Some(id as u32));
        hearing.push(std::array::from_fn(|listener| heard(&taps[listener])));
    }
    hearing
}

/// Who should hear it: without fences everybody else; with them nobody hears a false address, and
/// a VM only its own network.
fn expected(fenced: bool) -> Hearing {
    let hears = |sender: usize, claimed: usize, listener: usize| {
        let network = PARTIES[listener].network;
        let own = network.is_none() || network == PARTIES[claimed].network;
        listener != sender && (!fenced || sender == claimed && own)
    };
    SENDERS
        .map(|(s, c)| std::array::from_fn(|listener| hears(s, c, listener)))
        .to_vec()
}

fn show(paint: &Paint, hearing: &Hearing) {
    print!("  {:<20}", "sender");
    PARTIES
        .iter()
        .for_each(|listener| print!("{:<8}", listener.name));
    println!();
    for ((sender, claimed), heard) in SENDERS.into_iter().zip(hearing) {
        let who = if sender == claimed {
            PARTIES[sender].name.to_owned()
        } else {
            format!("{} as {}", PARTIES[sender].name, PARTIES[claimed].name)
        };
        print!("  {who:<20}");
        for (listener, heard) in heard.iter().enumerate() {
            let cell = match (listener == sender, heard) {
                (true, _) => paint.dim(&format!("{:<8}", "-")),
                (_, true) => paint.green(&format!("{:<8}", "hears")),
                (_, false) => paint.red(&format!("{:<8}", "silent")),
            };
            print!("{cell}");
        }
        println!();
    }
}

/// Colours, on a terminal.
struct Paint(bool);

impl Paint {
    fn code(&self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn green(&self, text: &str) -> String {
        self.code("32", text)
    }

    fn red(&self, text: &str) -> String {
        self.code("31", text)
    }

    fn dim(&self, text: &str) -> String {
        self.code("2", text)
    }

    fn title(&self, text: &str) {
        println!("\n{}", self.code("1", text));
    }

    fn command(&self, text: &str) {
        println!("{}", self.code("36", &format!("$ {text}")));
    }
}
