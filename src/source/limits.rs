//! Limits on foreign text. Users of VMs write into templates and domain XML. Their text must not
//! keep a hook busy or fill the host's memory. Real text stays far below these limits.

use anyhow::{Result, ensure};

/// The longest domain XML that is read, in bytes: libvirt passes no longer string
/// (`VIR_NET_MESSAGE_STRING_MAX`).
pub const DOMAIN_TEXT: usize = 4 << 20;

/// The longest OpenNebula template that is read, in bytes. Users put scripts and keys into
/// templates, so a long text alone is no reason to refuse one.
pub const TEMPLATE_TEXT: usize = 64 << 20;

/// The longest table of Xen's that is read, in bytes: a line of 128 bytes for each domain that Xen
/// can run.
pub const TABLE_TEXT: usize = 4 << 20;

/// The longest list of instances of Incus' that is read, in bytes. An instance takes some 3 KiB,
/// and more if users have put scripts into it.
pub const INSTANCES_TEXT: usize = 256 << 20;

/// The longest answer of xenstore about the ports of all domains, in bytes: 2,000 for each of
/// 32,000 domains.
pub const STORE_TEXT: usize = 64 << 20;

/// Elements of one document. A domain has some hundred, and with 1,000 NICs some 10,000. A template
/// has some hundred to a few thousand. A tree with this many takes some 20 MB.
pub const ELEMENTS: Limit = Limit(100_000, "elements");

/// Levels of nested elements. libvirt reads through libxml2, which allows 256. Each disk image that
/// backs another is a level.
pub const LEVELS: Limit = Limit(256, "levels of elements");

/// Attributes on one element. The parser compares each with every other. libvirt writes at most some 20.
pub const ATTRIBUTES_OF_ONE: Limit = Limit(100, "attributes on one element");

/// Attributes in all: as many as elements.
pub const ATTRIBUTES: Limit = Limit(100_000, "attributes");

/// Declared namespaces. The parser copies those of the parent to each element that declares another,
/// and searches them for each prefix. Tools that add metadata to a domain declare one each.
pub const NAMESPACES: Limit = Limit(100, "namespaces");

/// Pieces of text, CDATA sections, comments and instructions: each is a node of the tree. Around
/// each element there are two pieces of white space at most, and OpenNebula puts each value into CDATA.
pub const TEXTS: Limit = Limit(400_000, "pieces of text and comments");

/// Characters `<` and `=`, in text as well. The parser counts each as an element or an attribute
/// when it reserves memory, some 80 bytes. In scripts they are about one character in 20.
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

/// Domains that Xen runs. Xen gives no number beyond 0x7fef (`DOMID_FIRST_RESERVED`).
pub const DOMAINS: Limit = Limit(0x7ff0, "domains");

/// Instances of Incus: as many as domains of Xen. A bridge has at most 1,024 ports.
pub const INSTANCES: Limit = Limit(0x7ff0, "instances");

/// A limit on how many of something there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limit(usize, &'static str);

impl Limit {
    /// Refuses a count beyond the limit. `whose` names the document in the error, as in "the VM template".
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

/// Refuses text that is longer than `most` bytes, a whole number of MiB.
pub fn check_text(whose: &str, text: &str, most: usize) -> Result<()> {
    ensure!(
        text.len() <= most,
        "{whose} is longer than {} MiB",
        most >> 20
    );
    Ok(())
}

/// Formats a number with a comma before each three digits.
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
