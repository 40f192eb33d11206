//! systemd's journal, where standard error goes there: a line with its priority and with fields that
//! `journalctl` finds it by. In the journal's own protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>).

use std::env;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

use rustix::fs::fstat;

/// Where the journal takes entries.
const SOCKET: &str = "/run/systemd/journal/socket";

/// How urgent an entry is, as in syslog(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Something failed.
    Error = 3,
    /// Something should be seen to.
    Warning = 4,
    /// Something was set right.
    Notice = 5,
    /// A detail.
    Info = 6,
}

/// Whether standard error goes to the journal: systemd says in `$JOURNAL_STREAM` which file that is. A
/// program that we start may inherit the variable, and have another standard error.
pub fn is_there() -> bool {
    static IS_THERE: OnceLock<bool> = OnceLock::new();
    *IS_THERE.get_or_init(|| {
        let stat = fstat(io::stderr()).ok();
        let stream = env::var("JOURNAL_STREAM").ok();
        stat.zip(stream)
            .is_some_and(|(stat, stream)| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
    })
}

/// Gives the journal an entry. Returns whether it has taken it: not if it is full or away, or if the
/// entry is too long for one datagram.
pub fn send(priority: Priority, message: &str, fields: &[(&str, &str)]) -> bool {
    let send = || -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        // A journal that reads nothing keeps nobody from fencing.
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
        // With its length in front, a value may hold any text.
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
