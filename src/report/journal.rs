//! Writes to systemd's journal if standard error goes there: each entry has a priority, and fields that
//! `journalctl` can search. Uses the journal's own protocol
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>).

use std::env;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

use rustix::fs::fstat;

/// The journal's socket for entries.
const SOCKET: &str = "/run/systemd/journal/socket";

/// How urgent an entry is, as in syslog(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Something failed.
    Error = 3,
    /// The operator should look at something.
    Warning = 4,
    /// Something was repaired.
    Notice = 5,
    /// A detail.
    Info = 6,
}

/// Tells whether standard error goes to the journal. systemd names the journal's file in
/// `$JOURNAL_STREAM`. A program that we start may inherit the variable and have another standard error.
pub fn is_there() -> bool {
    static IS_THERE: OnceLock<bool> = OnceLock::new();
    *IS_THERE.get_or_init(|| {
        let stat = fstat(io::stderr()).ok();
        let stream = env::var("JOURNAL_STREAM").ok();
        stat.zip(stream)
            .is_some_and(|(stat, stream)| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
    })
}

/// Sends an entry to the journal. Returns whether the journal took it: it does not if it is full or not
/// running, or if the entry is too long for one datagram.
pub fn send(priority: Priority, message: &str, fields: &[(&str, &str)]) -> bool {
    let send = || -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        // Do not block on a full journal, because fencing must go on.
        socket.set_nonblocking(true)?;
        socket.send_to(&entry(priority, message, fields), SOCKET)?;
        Ok(())
    };
    is_there() && send().is_ok()
}

fn entry(priority: Priority, message: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let priority = (priority as u8).to_string();
    let own = [
        ("MESSAGE", message),
        ("PRIORITY", &priority),
        ("SYSLOG_IDENTIFIER", "macfence"),
    ];
    let mut entry = Vec::new();
    for (name, value) in own.iter().chain(fields) {
        // With its length in front, a value may contain any text.
        entry.extend(name.as_bytes());
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
        entry.extend(value.as_bytes());
        entry.push(b'\n');
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_can_make_up_another_field() {
        let fields = [("MACFENCE_VM", "a\nPRIORITY=0")];
        let entry = entry(Priority::Warning, "odd", &fields);
        let field = |name: &str, value: &str| {
            let len = (value.len() as u64).to_le_bytes();
            [name.as_bytes(), b"\n", &len, value.as_bytes(), b"\n"].concat()
        };
        let expected = [
            field("MESSAGE", "odd"),
            field("PRIORITY", "4"),
            field("SYSLOG_IDENTIFIER", "macfence"),
            field("MACFENCE_VM", "a\nPRIORITY=0"),
        ];
        assert_eq!(entry, expected.concat());
    }
}
