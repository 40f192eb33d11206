use clap::CommandFactory;

use super::*;

#[test]
fn a_long_argument_is_not_quoted_as_a_whole() {
    let long = "x".repeat(100_000);
    for words in [
        &["apply", &long][..],
        &["hook", "ebtables-kvm", &long],
        &["hook", "ebtables-flush", &long],
        &["--prefix-len", &long, "sync"],
        &["--trusted", &long, "sync"],
        &["--backend", &long, "sync"],
        &[&long],
    ] {
        let words = ["macfence"].iter().chain(words);
        let error = short(Cli::try_parse_from(words).unwrap_err()).to_string();
        assert!(error.contains("xxx...") && error.len() < 1_000, "{error}");
    }
}

/// Every subcommand that people see, with its own subcommands.
fn visible(command: &clap::Command) -> Vec<clap::Command> {
    let subcommands = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    subcommands
        .flat_map(|sub| [vec![sub.clone()], visible(sub)].concat())
        .collect()
}

#[test]
fn help_is_in_ascii_so_that_every_locale_can_show_it() {
    let mut commands = visible(&Cli::command());
    commands.push(Cli::command());
    for mut command in commands {
        let help = command.render_long_help().to_string();
        let odd: Vec<_> = help.lines().filter(|line| !line.is_ascii()).collect();
        assert!(odd.is_empty(), "{}: {odd:?}", command.get_name());
    }
}

#[test]
fn every_page_has_exit_statuses_and_the_examples_are_valid() {
    let mut commands = visible(&Cli::command());
    commands.push(Cli::command());
    for command in commands {
        let name = command.get_name();
        let help = command.get_after_long_help().map(ToString::to_string);
        let help = help.unwrap_or_else(|| panic!("{name} has no examples"));
        assert!(
            help.contains("\nExit status:\n") || help.starts_with("Exit status:\n"),
            "{name}"
        );
        // Behind two blanks is what a call does.
        let examples = help
            .lines()
            .filter_map(|line| line.trim().split("  ").next());
        for call in examples.flat_map(|line| line.split('|')).map(str::trim) {
            if call.starts_with("macfence ") {
                let read = Cli::try_parse_from(call.split_whitespace());
                assert!(read.is_ok(), "{name}: {call}: {}", read.unwrap_err());
            }
        }
    }
}
