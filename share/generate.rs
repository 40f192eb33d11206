//! Writes the man pages of section 8 and the shells' completions from the definition of the command
//! line, into `PREFIX/share`.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use clap_mangen::Man;
use macfence::cli::Cli;
use macfence::completions::VARIABLE;

/// The part of macfence(8) that does not come from the command line's definition.
const MORE: &str = include_str!("man/macfence.8.more");

fn main() -> Result<()> {
    let share = PathBuf::from(env::args_os().nth(1).context("usage: generate DIRECTORY")?);
    // The subcommands `help` get no pages.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let man8 = share.join("man/man8");
    fs::create_dir_all(&man8)?;
    pages(&command, &man8, MORE)?;
    // The files where the shells look.
    let shells: [(&dyn EnvCompleter, _, _); 3] = [
        (&Bash, "bash-completion/completions/macfence", ""),
        // zsh runs this file as the function that completes, so its last line calls the function that it defines.
        (
            &Zsh,
            "zsh/site-functions/_macfence",
            "_clap_dynamic_completer_macfence\n",
        ),
        (&Fish, "fish/vendor_completions.d/macfence.fish", ""),
    ];
    for (shell, path, more) in shells {
        let path = share.join(path);
        fs::create_dir_all(path.parent().context("no directory")?)?;
        let mut file = File::create(path)?;
        // Users who are not root have no sbin in their PATH.
        let program = "@sbindir@/macfence";
        shell.write_registration(VARIABLE, "macfence", "macfence", program, &mut file)?;
        file.write_all(more.as_bytes())?;
    }
    Ok(())
}

/// Writes the page of a command and those of its subcommands, each ending with `more`.
fn pages(command: &Command, dir: &Path, more: &str) -> Result<()> {
    let version = concat!("macfence ", env!("CARGO_PKG_VERSION"));
    // man shows an omitted date as the version, so give it an empty one.
    let page = Man::new(without_summary(command))
        .section("8")
        .date(" ")
        .source(version);
    let mut file = File::create(dir.join(page.get_filename()))?;
    page.render_title(&mut file)?;
    page.render_name_section(&mut file)?;
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    file.write_all(sections(&format!("Synopsis:\n{usage}")).as_bytes())?;
    if command.get_long_about().is_some() {
        page.render_description_section(&mut file)?;
    }
    page.render_options_section(&mut file)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut file)?;
    }
    if let Some(help) = command.get_after_long_help() {
        file.write_all(sections(&help.to_string()).as_bytes())?;
    }
    file.write_all(more.as_bytes())?;
    for subcommand in command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        let see = ".SH \"SEE ALSO\"\n\\fBmacfence\\fR(8), \\fBmacfence.toml\\fR(5)\n";
        pages(subcommand, dir, see)?;
    }
    Ok(())
}

/// Returns the command with a description that does not begin with its summary, because the page's
/// NAME section has that.
fn without_summary(command: &Command) -> Command {
    let command = command.clone();
    let long = command.get_long_about().map(ToString::to_string);
    match long.as_deref().and_then(|long| long.split_once("\n\n")) {
        Some((_, description)) => command.long_about(description.to_owned()),
        None => command.long_about(None::<&str>),
    }
}

/// Turns the help text that follows the options into sections of a page. A line like `Examples:`
/// begins a section. Keeps line breaks, because many lines are columns.
fn sections(help: &str) -> String {
    let mut page = String::new();
    for line in help.lines() {
        match line.strip_suffix(':') {
            Some(title) if !line.starts_with(' ') => {
                if !page.is_empty() {
                    page += ".fi\n";
                }
                page += &format!(".SH \"{}\"\n.nf\n", title.to_uppercase());
            }
            _ => {
                let line = line.strip_prefix("  ").unwrap_or(line);
                // man would take a quote or dot at the beginning of a line for a command.
                page += "\\&";
                page += &line
                    .replace('\\', "\\e")
                    .replace('-', "\\-")
                    .replace('\'', "\\(aq");
                page.push('\n');
            }
        }
    }
    page + ".fi\n"
}
