//! A chain of the skeleton, compared with the kernel's.

use serde_json::Value;

/// A chain of the skeleton: where it is hooked in, if it is, and its rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// The chain as nft describes it; null if it is not there.
    pub chain: Value,
    /// Its rules, in order, as nft describes them.
    pub rules: Vec<Value>,
}

impl Chain {
    /// Whether the kernel's chain is hooked in like this one. nft lists more than it was told.
    pub(super) fn is_hooked_in_like(&self, desired: &Self) -> bool {
        let mut desired = desired.chain.as_object().into_iter().flatten();
        desired.all(|(key, value)| self.chain.get(key) == Some(value))
    }

    /// Whether the kernel's chain has the rules of this one, and no others.
    pub(super) fn has_the_rules_of(&self, desired: &Self) -> bool {
        self.rules.len() == desired.rules.len()
            && self
                .rules
                .iter()
                .zip(&desired.rules)
                .all(|(own, desired)| is_same(own, desired))
    }

    /// Whether all that comes here is dropped: the last rule does that, and none before it says
    /// otherwise.
    pub(super) fn drops_in_the_end(&self) -> bool {
        let expressions = |rule: &Value| rule.get("expr").and_then(Value::as_array).cloned();
        let mut all = self.rules.iter().filter_map(expressions);
        let drops = |statement: &Value| statement.get("drop").is_some();
        let leads_away = |statement: &Value| {
            let verdicts = ["accept", "return", "jump", "goto", "queue", "vmap"];
            verdicts
                .iter()
                .any(|verdict| statement.get(verdict).is_some())
        };
        let last = all.next_back().unwrap_or_default();
        let is_drop = last.len() == 1 && last.iter().all(drops);
        is_drop && !all.flatten().any(|statement| leads_away(&statement))
    }

    /// What the rules look up in the map: `iifname` for frames from a port, `oifname` for frames to
    /// it.
    pub fn looks_up(&self) -> Vec<&str> {
        let statements = self
            .rules
            .iter()
            .filter_map(|rule| rule.get("expr")?.as_array());
        let keys = statements.flatten();
        let keys = keys.filter_map(|statement| statement.pointer("/vmap/key/meta/key")?.as_str());
        keys.collect()
    }
}

/// IGMP's number. nft knows its name, in both directions, only where `/etc/protocols` has it.
const IGMP: u8 = 2;

/// Whether the kernel's rule is this one. nft does not list a `meta protocol` that a later match
/// implies; one that is listed must be the same.
fn is_same(actual: &Value, desired: &Value) -> bool {
    let actual = statements(actual);
    let mut actual = actual.iter().peekable();
    for statement in statements(desired) {
        if actual.next_if_eq(&&statement).is_none() && !is_protocol(&statement) {
            return false;
        }
    }
    actual.next().is_none()
}

fn is_protocol(statement: &Value) -> bool {
    let key = statement.pointer("/match/left/meta/key");
    key.is_some_and(|key| key == "protocol")
}

/// A rule's statements, as far as every nft lists them alike on every host: without what was counted,
/// and with numbers for names.
fn statements(rule: &Value) -> Vec<Value> {
    let plain = |statement: &Value| {
        let mut statement = statement.clone();
        if let Some(counter) = statement.get_mut("counter") {
            *counter = Value::Null;
        } else if let Some(set) = statement.get_mut("set").and_then(Value::as_object_mut) {
            // nft 0.9.8 knows no counters of elements.
            set.remove("stmt");
        } else if let Some(number) = statement.pointer_mut("/match/right")
            && *number == "igmp"
        {
            *number = IGMP.into();
        }
        statement
    };
    let all = rule.get("expr").and_then(Value::as_array);
    all.into_iter().flatten().map(plain).collect()
}
