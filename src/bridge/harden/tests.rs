use super::*;

fn bridge(
    no_linklocal_learn: Option<bool>,
    spanning_tree: SpanningTree,
    guarded: &[(&str, bool)],
) -> Bridge {
    let port = |(port, guarded): &(&str, bool)| (port.parse().unwrap(), *guarded);
    Bridge {
        name: "br0".to_owned(),
        no_linklocal_learn,
        spanning_tree,
        guarded: guarded.iter().map(port).collect(),
    }
}

fn weaknesses_of(bridge: &Bridge) -> Vec<Weakness> {
    judge(bridge).weaknesses
}

fn open(port: &str) -> Weakness {
    Weakness::SpanningTree(port.parse().unwrap())
}

#[test]
fn a_bridge_that_learns_nothing_from_link_local_frames_is_left_alone() {
    let bridge = bridge(Some(true), SpanningTree::Nobody, &[("vnet0", false)]);
    assert_eq!(judge(&bridge), Findings::default());
}

#[test]
fn a_bridge_that_learns_from_link_local_frames_is_weak() {
    let bridge = bridge(Some(false), SpanningTree::Nobody, &[]);
    let weak = vec![Weakness::LinkLocalLearning("br0".to_owned())];
    assert_eq!(weaknesses_of(&bridge), weak);
    assert_eq!(judge(&bridge).unsupported, []);
}

#[test]
fn a_kernel_without_the_setting_is_reported() {
    let bridge = bridge(None, SpanningTree::Nobody, &[]);
    assert_eq!(weaknesses_of(&bridge), []);
    let cannot = vec![Unsupported::LinkLocalLearning("br0".to_owned())];
    assert_eq!(judge(&bridge).unsupported, cannot);
}

#[test]
fn with_the_kernels_spanning_tree_each_port_without_a_guard_is_weak() {
    let ports = [("vnet0", false), ("vnet1", true), ("vnet2", false)];
    let bridge = bridge(Some(true), SpanningTree::Kernel, &ports);
    assert_eq!(weaknesses_of(&bridge), [open("vnet0"), open("vnet2")]);
}

#[test]
fn a_program_that_does_spanning_tree_is_reported_and_no_guard_is_wanted() {
    let bridge = bridge(Some(true), SpanningTree::Program, &[("vnet0", false)]);
    assert_eq!(weaknesses_of(&bridge), []);
    let program = vec![Unsupported::SpanningTree("br0".to_owned())];
    assert_eq!(judge(&bridge).unsupported, program);
}

#[test]
fn an_unknown_state_of_spanning_tree_counts_as_a_programs() {
    let states = ["0", "1", "2", "3"].map(SpanningTree::from_state);
    use SpanningTree::{Kernel, Nobody, Program};
    assert_eq!(states, [Nobody, Kernel, Program, Program]);
}

#[test]
fn a_weakness_ends_with_the_command_that_fixes_it() {
    assert_eq!(
        Weakness::LinkLocalLearning("br0".to_owned()).to_string(),
        "bridge \"br0\" learns addresses from link-local frames, which no rule sees: run \
         \"ip link set dev br0 type bridge no_linklocal_learn 1\""
    );
    assert_eq!(
        open("vnet0").to_string(),
        "port \"vnet0\" takes part in spanning tree, which no rule sees: run \
         \"bridge link set dev vnet0 guard on\""
    );
}
