//! docs/xen.md, followed on a host of the lab with Xen's own scripts. `xl` is a stand-in: it does for `xl create`
//! what libxl does with the port and the script.

use std::fs;
use std::process::Command;

use crate::lab::pages::{blocks, commands};
use crate::lab::{Ran, overlay, path_with, script, source};
use crate::xen_scripts::{Xen, executable};

/// Makes the device of the domain that it creates, and calls the script that `xl.conf` names.
const XL: &str = r#"
dir=${0%/*}
case "$*" in
  "create one-7.cfg")
    touch $dir/created
    ip tuntap add vif7.0 mode tap
    name=$(sed -n 's/^vif.default.script="\(.*\)"$/\1/p' /etc/xen/xl.conf)
    XENBUS_PATH=/local/domain/0/backend/vif/7/0 vif=vif7.0 \
      exec /etc/xen/scripts/${name:-vif-bridge} online type_if=vif >/dev/null;;
  list) [ ! -e $dir/created ] || echo 'one-7 7 1 1 p 1';;
  "list 7") echo 'one-7 7 1 1 p 1';;
  "domid one-7") echo 7;;
  "network-list 7") echo '0 0 02:00:c0:a8:00:05 0 4';;
  *) echo "$2 is an invalid domain identifier (rc=-6)" >&2; exit 1;;
esac"#;

struct Reader(Xen);

impl Reader {
    /// Runs a block as it is. It must succeed.
    fn run(&self, block: &str) -> Ran {
        let mut shell = Command::new("bash");
        let path = format!("/usr/local/sbin:{}", path_with(&self.0.dir));
        shell.env("PATH", path).args(["-ec", block]);
        let ran = self.0.host.exec(&mut shell, "");
        let log = self.0.text("log/xen-hotplug.log");
        assert_eq!(ran.status, 0, "{block}: {ran:?}\n{log}");
        ran
    }
}

#[test]
fn the_page_on_xen_does_what_it_says() {
    let xen = Xen::new(["", ""]);
    xen.host.bridge("xenbr0");
    xen.host.unplug("vif7.0");
    let store = "/local/domain/0/backend/vif/7/0/bridge = \"xenbr0\"\n\
                 /local/domain/0/backend/vif/7/0/vifname = \"tenant7\"\n";
    fs::write(xen.dir.path().join("store"), store).unwrap();
    script(&xen.dir, "xl", XL);
    xen.host.run(|| {
        overlay("/usr/share");
        fs::create_dir_all("/usr/share/macfence/xen").unwrap();
        for name in ["macfence.hook", "vif-macfence"] {
            let place = format!("/usr/share/macfence/xen/{name}");
            fs::copy(source("share/xen").join(name), place).unwrap();
        }
    });
    let settings = xen.text("xen/xl.conf");
    let reader = Reader(xen);
    let xen = &reader.0;

    // "By hand" puts the same files into the same places.
    let scripts = "cd /etc/xen/scripts; ls -l vif-macfence vif-post.d | cut -d' ' -f1,3,4; \
                   sha256sum vif-macfence vif-post.d/*";
    for block in commands("xen.md", "By hand") {
        reader.run(&block);
    }
    let by_hand = reader.run(scripts).stdout;
    reader.run("rm -r /etc/xen/scripts/vif-macfence /etc/xen/scripts/vif-post.d");

    let said: String = commands("xen.md", "On each host")
        .iter()
        .map(|block| reader.run(block).stdout)
        .collect();
    assert!(said.ends_with("well\n"), "{said}");
    assert_eq!(reader.run(scripts).stdout, by_hand);
    let shown = blocks("xen.md")
        .into_iter()
        .find(|block| block.language == "text");
    let with = xen.text("xen/xl.conf");
    assert!(
        with.contains(&format!("\n{}", shown.unwrap().text)),
        "{with}"
    );

    // Each line of the transcript: what is behind a prompt is run, what follows is printed.
    let is_transcript = |block: &_| {
        let block: &crate::lab::pages::Block = block;
        block.heading == "How to see that it works" && block.language == "console"
    };
    let transcript = blocks("xen.md").into_iter().find(is_transcript).unwrap();
    let mut printed = String::new();
    for line in commands("xen.md", "How to see that it works")
        .concat()
        .lines()
    {
        let ran = reader.run(line);
        printed += &format!("# {line}\n{}{}", ran.stdout, ran.stderr);
    }
    assert_eq!(printed, transcript.text);
    assert_eq!(xen.host.ports_of("xenbr0"), ["tenant7"]);

    let [undo] = &commands("xen.md", "How to undo it")[..] else {
        panic!("more than one block")
    };
    reader.run(undo);
    assert!(!xen.host.ruleset().contains("macfence"));
    assert_eq!(xen.text("xen/xl.conf"), settings);
    // What stays starts domains.
    executable(
        &xen.dir.path().join("xen/scripts/vif-bridge"),
        "#!/bin/sh\necho \"$@\"\n",
    );
    let said = reader
        .run("/etc/xen/scripts/vif-macfence online type_if=vif")
        .stdout;
    assert_eq!(said, "online type_if=vif\n");
}
