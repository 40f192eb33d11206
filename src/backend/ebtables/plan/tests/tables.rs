//! The tables of a simulated ebtables.

use super::*;

/// The listing of ebtables after these calls on empty tables, in its own words.
pub struct Tables {
    pub places: BTreeMap<Place, Vec<String>>,
    pub chains: BTreeMap<ChainId, Vec<String>>,
}

impl Tables {
    /// Tables with these rules in `FORWARD`.
    pub fn of(forward: &[&str]) -> Self {
        let mut tables = Self {
            places: PLACES.iter().map(|place| (*place, Vec::new())).collect(),
            chains: BTreeMap::new(),
        };
        tables.places.insert(FORWARD, owned(forward));
        tables
    }

    pub fn at(&self, place: Place) -> &[String] {
        &self.places[&place]
    }

    pub fn ruleset(&self) -> Ruleset {
        let mut ruleset = Ruleset::default();
        for table in TABLES {
            let places = self.places.iter().filter(|(place, _)| place.table == table);
            let places = places.map(|(place, rules)| (place.chain, rules));
            let chains = self.chains.iter().filter(|((of, _), _)| *of == table);
            let chains = chains.map(|((_, name), rules)| (name.as_str(), rules));
            let mut listing = format!("Bridge table: {table}\n");
            for (name, rules) in places.chain(chains) {
                let rules = rules.join("\n").replace("-c ", ", pcnt = ");
                listing += &format!("\nBridge chain: {name}, x\n{rules}\n");
            }
            ruleset.read(table, &listing).unwrap();
        }
        ruleset
    }

    pub fn chain(&mut self, table: &'static str, name: &str) -> &mut Vec<String> {
        let place = PLACES
            .into_iter()
            .find(|place| (place.table, place.chain) == (table, name));
        let chain = place.and_then(|place| self.places.get_mut(&place));
        let id = (table, name.to_owned());
        chain.unwrap_or_else(|| self.chains.get_mut(&id).unwrap())
    }

    /// Simulates ebtables. Deleting by words deletes the first rule that looks the same.
    pub fn run(&mut self, call: &Call) {
        let table = call.table;
        let words: Vec<_> = call.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["-N", name, "-P", _] => {
                let old = self.chains.insert((table, (*name).to_owned()), Vec::new());
                assert_eq!(old, None, "{name}");
            }
            ["-F", name] => self.chain(table, name).clear(),
            ["-X", name] => {
                let places = self.places.iter().filter(|(place, _)| place.table == table);
                let mut rules = places.flat_map(|(_, rules)| rules);
                let leads_there = |rule: &String| rule.split(' ').any(|word| word == *name);
                assert!(!rules.any(leads_there), "{name} is used");
                self.chains.remove(&(table, (*name).to_owned())).unwrap();
            }
            ["-A", name, rule @ ..] => self.chain(table, name).push(as_listed(rule)),
            ["-I", name, number, rule @ ..] => {
                let number: usize = number.parse().unwrap();
                self.chain(table, name).insert(number - 1, as_listed(rule));
            }
            ["-D", name, number] => {
                let number: usize = number.parse().unwrap();
                self.chain(table, name).remove(number - 1);
            }
            ["-D", name, rule @ ..] => {
                let rule = rule.join(" ");
                let chain = self.chain(table, name);
                let is_it = |one: &String| one.split(" , pcnt").next() == Some(&rule);
                let index = chain.iter().position(is_it).unwrap();
                chain.remove(index);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A rule with its counters as ebtables lists them.
fn as_listed(rule: &[&str]) -> String {
    match rule {
        [rule @ .., "-c", packets, bytes] => {
            format!("{} , pcnt = {packets} -- bcnt = {bytes}", rule.join(" "))
        }
        rule => rule.join(" "),
    }
}
