//! What shells offer after a tab, asked with the scripts that are installed.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::lab::{Host, MACFENCE, built, domain, fake_virsh, need, path_with};

/// A host with bridges `br0` and `br1`, and the running VMs `web-1` and `web-2`.
struct Shells {
    host: Host,
    virsh: TempDir,
    /// The installed scripts, with the path of the program under test in them.
    scripts: TempDir,
}

impl Shells {
    fn new() -> Self {
        let host = Host::new();
        host.bridge("br0");
        host.bridge("br1");
        let web = |name, mac, port| domain(name, &[(mac, port, "br0")]);
        let virsh = fake_virsh(&[
            ("web-1", &web("web-1", "02:00:c0:a8:00:05", "vnet0")),
            ("web-2", &web("web-2", "02:00:c0:a8:00:06", "vnet1")),
        ]);
        let scripts = tempfile::tempdir().unwrap();
        for (shell, path) in [
            ("bash", "bash-completion/completions/macfence"),
            ("_macfence", "zsh/site-functions/_macfence"),
            ("fish", "fish/vendor_completions.d/macfence.fish"),
        ] {
            let script = fs::read_to_string(built(&format!("target/share/{path}"), "make"));
            let script = script.unwrap().replace("@sbindir@/macfence", MACFENCE);
            fs::write(scripts.path().join(shell), script).unwrap();
        }
        Self {
            host,
            virsh,
            scripts,
        }
    }

    /// Runs a shell with this program text.
    fn run(&self, shell: &str, args: &[&str]) -> Vec<String> {
        let mut command = Command::new(need(shell));
        command
            .args(args)
            .env("PATH", path_with(self.virsh.path()))
            .env("HOME", self.scripts.path())
            .current_dir(self.scripts.path());
        let said = self.host.exec(&mut command, "").ok();
        said.split_whitespace().map(str::to_owned).collect()
    }

    /// What bash offers behind these words, of which the last one has begun.
    fn bash(&self, words: &[&str]) -> Vec<String> {
        let script = "source ./bash; complete -p macfence >/dev/null; \
            COMP_WORDS=(macfence \"$@\"); COMP_CWORD=$#; COMP_TYPE=9; \
            _clap_complete_macfence macfence \"${COMP_WORDS[-1]}\" \"${COMP_WORDS[-2]}\"; \
            printf '%s\\n' \"${COMPREPLY[@]}\"";
        self.run("bash", &[&["-euc", script, "bash"], words].concat())
    }
}

#[test]
fn bash_offers_subcommands_flags_and_names_of_this_host() {
    let shells = Shells::new();
    for (words, offered) in [
        (&["expo"][..], &["export"][..]),
        (&["ex"], &["explain", "export"]),
        (&["hook", "lib"], &["libvirt"]),
        (&["list", "--js"], &["--json"]),
        (&["apply", "w"], &["web-1", "web-2"]),
        (&["apply", "web-1", "web-2"], &["web-2"]),
        (&["remove", "w"], &["web-1", "web-2"]),
        (&["explain", "web-1", "v"], &["vnet0", "vnet1"]),
        (&["list", "--bridge", ""], &["br0", "br1"]),
        (&["--bridge", "b"], &["br0", "br1"]),
        (&["drops", "--follow", "web-1"], &["web-1"]),
    ] {
        assert_eq!(shells.bash(words), offered, "{words:?}");
    }
}

#[test]
fn files_are_offered_only_where_a_file_is_meant() {
    let shells = Shells::new();
    let files = ["_macfence", "bash", "fish"];
    assert_eq!(shells.bash(&["list", "--config", ""]), files);
    assert_eq!(shells.bash(&["check", "--xml", ""]), files);
    assert_eq!(shells.bash(&["list", "--trusted", ""]), [""; 0]);
    assert_eq!(shells.bash(&["explain", "--arp", ""]), [""; 0]);
}

#[test]
fn fish_and_zsh_offer_the_same_names() {
    let shells = Shells::new();
    let line = "source ./fish; complete -C 'macfence apply web'";
    assert_eq!(shells.run("fish", &["-N", "-c", line]), ["web-1", "web-2"]);

    // zsh calls its helper functions only at a terminal: here are simple ones in their place.
    let script = "compdef() { : }; _describe() { print -l -- ${(P)3} }; \
        words=(macfence apply web); CURRENT=3; source ./_macfence";
    assert_eq!(shells.run("zsh", &["-f", "-c", script]), ["web-1", "web-2"]);
}

#[test]
fn a_variable_that_is_left_over_turns_no_call_into_a_completion() {
    let shells = Shells::new();
    let mut command = Command::new(MACFENCE);
    command.args(["hook", "libvirt", "--", "web-1", "start", "begin", "-"]);
    let command = command.env("MACFENCE_COMPLETE", "bash");
    let ran = shells.host.exec(command, "no domain");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
}
