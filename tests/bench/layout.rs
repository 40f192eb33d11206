//! The table of version 0.1, in nft's own language, as a baseline for later layouts. Written by
//! hand, because macfence no longer generates it. Pure.

use macfence::mac::{MacAddr, MacPrefix, PrefixLen};

/// Returns the table of VMs with one NIC each, given as name, port and MAC address. A chain is
/// named after its VM, so the name must need no escaping.
pub fn version_0_1(vms: impl IntoIterator<Item = (String, String, MacAddr)>) -> String {
    let (mut chains, mut elements) = (String::new(), Vec::new());
    for (name, port, mac) in vms {
        let network = MacPrefix::of(mac, PrefixLen::default());
        let (base, mask) = (network.base(), network.mask());
        chains += &format!(
            "\tchain vm-{name} {{\n\
             \t\tiifname \"{port}\" ether saddr != {mac} counter drop\n\
             \t\toifname \"{port}\" ether saddr & {mask} != {base} counter drop\n\
             \t}}\n"
        );
        elements.push(format!("\"{port}\" : jump vm-{name}"));
    }
    // nft refuses an empty set of elements.
    let elements = if elements.is_empty() {
        String::new()
    } else {
        format!("\t\telements = {{ {} }}\n", elements.join(", "))
    };
    format!(
        "table bridge macfence {{\n\
         {chains}\
         \tmap ports {{\n\
         \t\ttype ifname : verdict\n\
         {elements}\
         \t}}\n\
         \tchain forward {{\n\
         \t\ttype filter hook forward priority -200; policy accept;\n\
         \t\tiifname vmap @ports\n\
         \t\toifname vmap @ports\n\
         \t}}\n\
         }}\n"
    )
}
