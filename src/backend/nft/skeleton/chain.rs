//! Compares a chain of the skeleton with the kernel's.

use serde_json::Value;

/// A chain of the skeleton: its hook, if it has one, and its rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chain {
    /// The chain as nft describes it; null if it does not exist.
    pub chain: Value,
    /// Its rules, in order, as nft describes them.
    pub rules: Vec<Value>,
}

impl Chain {
    /// Tells whether the kernel's chain is hooked in as desired. Further keys in nft's listing do not
    /// matter.
    pub(super) fn is_hooked_in_like(&self, desired: &Self) -> bool {
        let mut desired = desired.chain.as_object().into_iter().flatten();
        desired.all(|(key, value)| self.chain.get(key) == Some(value))
    }

    /// Tells whether the kernel's chain has the desired rules and no others.
    pub(super) fn has_the_rules_of(&self, desired: &Self) -> bool {
        self.rules.len() == desired.rules.len()
            && self
                .rules
                .iter()
                .zip(&desired.rules)
                .all(|(own, desired)| is_same(own, desired))
    }

    /// Tells whether the chain drops every frame: the last rule does, and no earlier one leads elsewhere.
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

    /// Returns the keys that the rules look up in the map: `iifname` for frames from a port, `oifname`
    /// for frames to it.
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

/// IGMP's number. nft reads and writes its name only if `/etc/protocols` has it.
const IGMP: u8 = 2;

/// Tells whether the kernel's rule is the desired one. nft may leave out a `meta protocol` that a later
/// match implies; a listed one must be the same.
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

/// Returns a rule's statements in a form that is the same for every nft and host: without counts, and
/// with numbers instead of names.
fn statements(rule: &Value) -> Vec<Value> {
    let plain = |statement: &Value| {
        let mut statement = statement.clone();
        if let Some(counter) = statement.get_mut("counter") {
            *counter = Value::Null;
        } else if let Some(set) = statement.get_mut("set").and_then(Value::as_object_mut) {
            // nft 0.9.8 has no counters in sets.
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
