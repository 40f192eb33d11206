//! The name of a VM's chain is `vm-` and the VM's name. Every byte outside `[A-Za-z0-9.-]` becomes `_`
//! and two lower-case hex digits. So no two VMs share a chain, the VM's name can be read back, and nft
//! can load its own listings again.

use std::fmt;

use anyhow::{Result, ensure};

use crate::vm::VmName;

const PREFIX: &str = "vm-";

/// The longest name of a chain, in bytes: the kernel's `NFT_NAME_MAXLEN` less the final zero.
const MAX_LEN: usize = 255;

/// The name of a VM's chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName(String);

impl ChainName {
    /// Returns the name of this VM's chain.
    ///
    /// # Errors
    /// If it is longer than the kernel takes.
    pub fn of(vm: &VmName) -> Result<Self> {
        let name = PREFIX.to_owned() + &vm.escaped();
        ensure!(
            name.len() <= MAX_LEN,
            "the name of VM {:?} is too long: its chain's name would have {} bytes, \
             and the kernel takes {MAX_LEN}",
            vm.as_str(),
            name.len()
        );
        Ok(Self(name))
    }

    /// Reads the name of a chain. `None` if it is no VM's.
    pub fn parse(name: &str) -> Option<Self> {
        let chain = Self(name.to_owned());
        let vm = chain.decode()?;
        // We write each VM's name in only one way.
        (Self::of(&vm).ok()? == chain).then_some(chain)
    }

    /// Returns the VM whose chain this is.
    pub fn decode(&self) -> Option<VmName> {
        let mut bytes = Vec::new();
        let mut left = self.0.strip_prefix(PREFIX)?.bytes();
        while let Some(byte) = left.next() {
            bytes.push(match byte {
                b'_' => {
                    let mut digit = || char::from(left.next()?).to_digit(16);
                    u8::try_from(digit()? << 4 | digit()?).ok()?
                }
                _ => byte,
            });
        }
        String::from_utf8(bytes).ok()?.parse().ok()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chain(vm: &str) -> String {
        ChainName::of(&vm.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn a_name_is_written_in_characters_that_nft_reads_back() {
        assert_eq!(chain("one-42"), "vm-one-42");
        assert_eq!(chain("a b; drop"), "vm-a_20b_3b_20drop");
        assert_eq!(chain("a_b"), "vm-a_5fb");
        assert_eq!(chain("日本"), "vm-_e6_97_a5_e6_9c_ac");
        assert_eq!(chain("../x"), "vm-.._2fx");
    }

    #[test]
    fn a_name_that_the_kernel_cannot_hold_is_refused() {
        assert_eq!(chain(&"x".repeat(252)).len(), 255);
        for name in ["x".repeat(253), "日".repeat(29)] {
            let error = ChainName::of(&name.parse().unwrap())
                .unwrap_err()
                .to_string();
            assert!(error.contains("too long"), "{error}");
        }
    }

    #[test]
    fn other_chains_are_not_mistaken_for_a_vms() {
        for name in [
            "forward", "vm-", "vm-a_", "vm-a_5", "vm-a_5F", "vm-a_41", "vm-a b", "vm-_ff",
        ] {
            assert_eq!(ChainName::parse(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn chain_names_decode_back(name in "\\PC{1,24}|[ -~]{1,60}|[\0-\u{1f}]{1,9}") {
            let vm: VmName = name.parse().unwrap();
            let chain = ChainName::of(&vm).unwrap();
            prop_assert_eq!(chain.decode(), Some(vm));
            prop_assert_eq!(ChainName::parse(chain.as_str()), Some(chain));
        }

        #[test]
        fn two_vms_never_share_a_chain(a in "[a-c_5f .-]{1,6}", b in "[a-c_5f .-]{1,6}") {
            prop_assert_eq!(a == b, chain(&a) == chain(&b));
        }
    }
}
