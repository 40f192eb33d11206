//! How much of foreign text is taken. Users of VMs write into templates and domain XML, and what
//! they write must not keep a hook busy or fill a host's memory. Real text stays far below.

use anyhow::{Result, ensure};

/// The most domain XML that is read, in bytes: libvirt passes no longer string
/// (`VIR_NET_MESSAGE_STRING_MAX`).
pub const DOMAIN_TEXT: usize = 4 << 20;

/// The most text of an OpenNebula template that is read, in bytes. Templates carry what users have
/// put into them, scripts and keys included, so that text alone is no reason to refuse one.
pub const TEMPLATE_TEXT: usize = 64 << 20;

/// The most that one of Xen's tables may hold, in bytes: all domains that Xen can run, with 128
/// bytes a line.
pub const TABLE_TEXT: usize = 4 << 20;

/// The most text of Incus' list of instances that is read, in bytes. An instance takes some 3 KiB, and
/// more with the scripts that users have put into it.
pub const INSTANCES_TEXT: usize = 256 << 20;

/// The most that is read of what xenstore says of the ports of all domains, in bytes: 2,000 for each of
/// 32,000.
pub const STORE_TEXT: usize = 64 << 20;

/// Elements of one document. A domain has some hundred; one with 1,000 NICs some 10,000. A template
/// has some hundred to a few thousand. A tree of so many takes some 20 MB.
pub const ELEMENTS: Limit = Limit(100_000, "elements");

/// How deep elements may be nested: libxml2, through which libvirt reads, allows 256. A disk image
/// below another is a level.
pub const LEVELS: Limit = Limit(256, "levels of elements");

/// Attributes on one element. The parser compares each with each; libvirt writes at most some 20.
pub const ATTRIBUTES_OF_ONE: Limit = Limit(100, "attributes on one element");

/// Attributes in all: as many as elements.
pub const ATTRIBUTES: Limit = Limit(100_000, "attributes");

/// Declared namespaces. The parser copies those of the parent to each element that declares another,
/// and searches them for each prefix. Tools that add metadata to a domain declare one each.
pub const NAMESPACES: Limit = Limit(100, "namespaces");

/// Pieces of text, CDATA sections, comments and instructions: each is a node of the tree. Around
/// each element there are two pieces of white space at most, and OpenNebula puts each value into CDATA.
pub const TEXTS: Limit = Limit(400_000, "pieces of text and comments");

/// Characters `<` and `=`, in text as well: the parser takes each for an element or an attribute
/// when it reserves memory, some 80 bytes. In a script one of 20 characters is such a one.
pub const MARKS: Limit = Limit(4_000_000, "characters `<` and `=`");

/// NICs of one VM. QEMU has room for some hundred.
pub const NICS: Limit = Limit(1_000, "NICs");

/// Aliases of the NICs of one VM: as many as NICs.
pub const ALIASES: Limit = Limit(1_000, "aliases");

/// IP addresses of one NIC with its aliases. An interface in a guest has some ten.
pub const ADDRESSES: Limit = Limit(1_000, "IP addresses");

/// Further MAC addresses in `MACFENCE_MACS` of one NIC.
pub const EXTRA_MACS: Limit = Limit(64, "MAC addresses");

/// Further IP addresses in `MACFENCE_IPS` of one NIC.
pub const EXTRA_ADDRESSES: Limit = Limit(64, "IP addresses");

/// Domains that Xen runs: it gives no number beyond 0x7fef (`DOMID_FIRST_RESERVED`).
pub const DOMAINS: Limit = Limit(0x7ff0, "domains");

/// Instances of Incus: as many as domains of Xen. A bridge has at most 1,024 ports.
pub const INSTANCES: Limit = Limit(0x7ff0, "instances");

/// A limit on how many of something there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limit(usize, &'static str);

impl Limit {
    /// Refuses a number beyond the limit; `whose` says of what, as in "the VM template".
    pub fn check(self, whose: &str, count: usize) -> Result<()> {
        let Self(most, of) = self;
        ensure!(
            count <= most,
            "{whose} has more than {} {of}",
            grouped(most)
        );
        Ok(())
    }

    /// The largest number that is allowed.
    #[cfg(test)]
    pub const fn most(self) -> usize {
        self.0
    }
}

/// Refuses text that is longer than so many bytes, a number of MiB.
pub fn check_text(whose: &str, text: &str, most: usize) -> Result<()> {
    ensure!(
        text.len() <= most,
        "{whose} is longer than {} MiB",
        most >> 20
    );
    Ok(())
}

/// A number with a comma before each three digits.
fn grouped(number: usize) -> String {
    if number < 1_000 {
        number.to_string()
    } else {
        format!("{},{:03}", grouped(number / 1_000), number % 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_named_with_its_number() {
        let (few, many) = (Limit(3, "legs"), Limit(1_050_000, "legs"));
        assert!(few.check("the table", 3).is_ok());
        let error = |limit: Limit| limit.check("the table", 2_000_000).unwrap_err().to_string();
        assert_eq!(error(few), "the table has more than 3 legs");
        assert_eq!(error(many), "the table has more than 1,050,000 legs");
    }

    #[test]
    fn text_may_be_as_long_as_its_limit() {
        assert!(check_text("it", &"x".repeat(1 << 20), 1 << 20).is_ok());
        let error = check_text("it", &"x".repeat((1 << 20) + 1), 1 << 20).unwrap_err();
        assert_eq!(error.to_string(), "it is longer than 1 MiB");
    }
}
