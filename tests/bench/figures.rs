//! The figures of the bench, their medians, and their file. Pure, except that it reads the name of
//! the processor.

use std::process::Command;
use std::thread;

/// The part that names the machine.
const MACHINE: &str = "machine";

/// The subject of a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// The part of the bench.
    pub part: String,
    /// The work.
    pub what: String,
    /// The program that does it.
    pub way: String,
    /// The number of VMs on the host.
    pub vms: usize,
    /// The measured quantity with its unit. `times X` is a multiple of X's figure.
    pub measure: String,
}

impl Figure {
    pub fn new(part: &str, what: &str, way: &str, vms: usize, measure: &str) -> Self {
        Self {
            part: part.to_owned(),
            what: what.to_owned(),
            way: way.to_owned(),
            vms,
            measure: measure.to_owned(),
        }
    }
}

/// A number for each figure and round.
pub struct Figures(Vec<(Figure, Vec<f64>)>);

impl Figures {
    /// Starts with the description of this machine, and no measurements.
    pub fn of_this_machine() -> Self {
        let said = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output();
            let text = String::from_utf8_lossy(&output.expect(program).stdout).into_owned();
            text.lines().next().unwrap_or_default().to_owned()
        };
        let words = [
            processor(),
            said("uname", &["-sr"]),
            said("nft", &["--version"]),
            said("ebtables", &["--version"]),
        ];
        let cpus = thread::available_parallelism().map_or(0, usize::from);
        let mut figures = Self(Vec::new());
        let machine = words.join("; ");
        figures.add(Figure::new(MACHINE, "", &machine, 0, "CPUs"), cpus as f64);
        figures
    }

    /// Adds the next round's number.
    pub fn add(&mut self, figure: Figure, number: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == figure) {
            Some((_, numbers)) => numbers.push(number),
            None => self.0.push((figure, vec![number])),
        }
    }

    /// Adds the ratio of `figure` to `other`, round by round. Adds nothing if only one of them was
    /// measured.
    pub fn compare(&mut self, figure: Figure, other: &Figure, measure: &str) {
        let numbers = |wanted: &Figure| self.0.iter().find(|(known, _)| known == wanted);
        let (Some((_, these)), Some((_, those))) = (numbers(&figure), numbers(other)) else {
            return;
        };
        assert_eq!(these.len(), those.len(), "rounds of {figure:?}");
        let ratios = these.iter().zip(those).map(|(this, that)| this / that);
        let ratios = ratios.collect();
        let measure = measure.to_owned();
        self.0.push((Figure { measure, ..figure }, ratios));
    }

    /// Summarises the rounds of each figure.
    pub fn rows(&self) -> Vec<Row> {
        let row = |(figure, numbers): &(Figure, Vec<f64>)| {
            let mut sorted = numbers.clone();
            sorted.sort_by(f64::total_cmp);
            let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize];
            Row {
                figure: figure.clone(),
                rounds: sorted.len(),
                median: at(0.5),
                low: at(0.25),
                high: at(0.75),
            }
        };
        self.0.iter().map(row).collect()
    }
}

/// A figure over all rounds.
#[derive(Clone, Debug)]
pub struct Row {
    pub figure: Figure,
    pub rounds: usize,
    pub median: f64,
    /// A quarter of the rounds are below it.
    pub low: f64,
    /// A quarter of the rounds are above it.
    pub high: f64,
}

/// Returns the name of the processor, without commas. A virtual machine tells little more than the
/// family, so that is added.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let mut fields = info.lines().filter_map(|line| line.split_once(':'));
        let field = fields.find(|(name, _)| name.trim() == key);
        field.map(|(_, value)| value.trim().replace(',', ""))
    };
    let name = value("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    match (value("cpu family"), value("model")) {
        (Some(family), Some(model)) => format!("{name} (family {family} model {model})"),
        _ => name,
    }
}

/// Describes the machine in words.
pub fn machine(rows: &[Row]) -> String {
    let row = rows.iter().find(|row| row.figure.part == MACHINE);
    let row = row.expect("a machine");
    format!("{} × {}", row.median, row.figure.way)
}

const HEADER: &str = "part,what,way,vms,measure,rounds,median,low,high";

/// Writes the file. No field contains a comma.
pub fn to_csv(rows: &[Row]) -> String {
    let mut csv = format!("{HEADER}\n");
    for row in rows {
        let Figure {
            part,
            what,
            way,
            vms,
            measure,
        } = &row.figure;
        let Row {
            rounds,
            median,
            low,
            high,
            ..
        } = row;
        let line = format!(
            "{part},{what},{way},{vms},{measure},{rounds},{median:.3},{low:.3},{high:.3}\n"
        );
        assert_eq!(line.matches(',').count(), 8, "{line}");
        csv += &line;
    }
    csv
}

/// Reads the file.
pub fn from_csv(csv: &str) -> Vec<Row> {
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some(HEADER));
    lines.map(from_line).collect()
}

fn from_line(line: &str) -> Row {
    let fields: Vec<_> = line.split(',').collect();
    let [part, what, way, vms, measure, rounds, median, low, high] = fields[..] else {
        panic!("not a row: {line}");
    };
    let number = |text: &str| text.parse::<f64>().expect(line);
    Row {
        figure: Figure::new(part, what, way, vms.parse().expect(line), measure),
        rounds: rounds.parse().expect(line),
        median: number(median),
        low: number(low),
        high: number(high),
    }
}
