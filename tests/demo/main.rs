//! Shows the main job: who hears whom on a bridge, before and after its VMs are fenced. Fails if
//! anything differs from what macfence promises.

#[path = "../lab/mod.rs"]
#[allow(dead_code, reason = "the tests use more of the lab")]
mod lab;

mod hearing;
mod map;
mod picture;

use std::io::{IsTerminal, stdout};
use std::process::{Command, ExitCode};

use hearing::{Hearing, PARTIES, SENDERS};
use lab::{Host, domain, fake_virsh, macfence_with, source};
use map::Map;
use picture::Panel;
use tempfile::TempDir;

const PICTURE: &str = "docs/who-hears-whom.svg";

/// Without this entry, fenced VMs could not hear their router.
const CONFIGURATION: &str = "trusted = [\"52:54:00:12:34:56\"]\n";

fn main() -> ExitCode {
    let paint = Paint(stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let host = Host::new();
    paint.title("A host: one bridge, virtual networks A and B, their router");
    host.bridge("br0");
    let taps: Vec<_> = PARTIES
        .iter()
        .map(|party| host.tap("br0", party.port))
        .collect();
    for party in &PARTIES {
        let network = party
            .network
            .map_or(String::new(), |n| format!("  network {n}"));
        println!("  {:<8}{:<9}{}{network}", party.name, party.port, party.mac);
    }
    let shell = Shell::new(&host, &paint);

    paint.title("Before: who hears whom");
    let hearing = hearing::measured(&taps);
    show(&paint, &hearing);
    let graph = shell.run("macfence list --graph");
    print!("{graph}");
    let before = Panel {
        title: "Before: no fences",
        subtitle: "Every VM hears every frame, false senders too.",
        hearing,
        map: Map::read(&graph),
    };
    let mut good = before.hearing == hearing::expected(false) && is_same(&before);

    paint.title("Fencing the VMs, from their libvirt domain XML");
    print!("{}", shell.run("cat macfence.toml"));
    for vm in hearing::vms() {
        let name = vm.name;
        shell.run(&format!(
            "macfence --config macfence.toml apply --xml {name}.xml"
        ));
    }
    print!("{}", shell.run("nft list ruleset"));

    paint.title("After: who hears whom");
    let hearing = hearing::measured(&taps);
    show(&paint, &hearing);
    print!("{}", shell.run("macfence --config macfence.toml list"));
    let graph = shell.run("macfence --config macfence.toml list --graph");
    print!("{graph}");
    let after = Panel {
        title: "After: every VM has a fence",
        subtitle: "A VM hears its network and the router. Lies are dropped.",
        hearing,
        map: Map::read(&graph),
    };
    good &= after.hearing == hearing::expected(true) && is_same(&after);
    good = good && is_as_drawn(&paint, &picture::draw(&[before, after]));

    paint.title("One VM is removed, the others end and are flushed");
    shell.run("macfence remove one-1");
    good &= host.fenced() == ["one-2", "one-3", "one-4"];
    drop(taps);
    shell.run("macfence flush");
    shell.end_all();
    print!("{}", shell.run("macfence list"));
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

/// Compares the measured frames with the map that macfence draws.
fn is_same(panel: &Panel) -> bool {
    let mut honest = SENDERS
        .iter()
        .zip(&panel.hearing)
        .filter(|((sender, claimed), _)| sender == claimed);
    honest.all(|((sender, _), heard)| {
        let from = &PARTIES[*sender];
        let mut listeners = hearing::vms()
            .zip(heard)
            .filter(|(vm, _)| vm.name != from.name);
        listeners.all(|(vm, heard)| panel.map.hears(vm.name, from) == *heard)
    })
}

/// Compares the picture in `docs` with what was measured. If they differ, it writes the new picture
/// and returns false.
fn is_as_drawn(paint: &Paint, picture: &str) -> bool {
    let file = source(PICTURE);
    let is_unchanged = std::fs::read_to_string(&file).is_ok_and(|old| old == picture);
    if !is_unchanged {
        std::fs::write(&file, picture).expect(PICTURE);
        println!(
            "{}",
            paint.red(&format!(
                "{PICTURE} was out of date. It is drawn again now: look at it."
            ))
        );
    }
    is_unchanged
}

/// Runs commands on the host, in a directory with the VMs' domain XML and the configuration.
struct Shell<'a> {
    host: &'a Host,
    paint: &'a Paint,
    dir: TempDir,
}

impl<'a> Shell<'a> {
    fn new(host: &'a Host, paint: &'a Paint) -> Self {
        let xml = hearing::vms().map(|vm| (vm.name, domain(vm.name, &[(vm.mac, vm.port, "br0")])));
        let xml: Vec<_> = xml.collect();
        let domains: Vec<_> = xml.iter().map(|(name, xml)| (*name, &**xml)).collect();
        let dir = fake_virsh(&domains);
        std::fs::write(dir.path().join("macfence.toml"), CONFIGURATION).expect("a configuration");
        Self { host, paint, dir }
    }

    /// Shows and runs a command, and returns its output. Panics if the command fails.
    fn run(&self, line: &str) -> String {
        self.paint.command(line);
        let mut words = line.split(' ');
        let program = words.next().expect("a program");
        let mut command = match program {
            "macfence" => macfence_with(&self.dir),
            _ => Command::new(program),
        };
        self.host
            .exec(command.current_dir(&self.dir).args(words), "")
            .ok()
    }

    /// Ends all VMs.
    fn end_all(&self) {
        std::fs::write(self.dir.path().join("names"), "").expect("no VMs");
    }
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

/// Colours, if the output is a terminal.
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
