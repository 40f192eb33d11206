//! Writes what follows from the command line's definition, as `PREFIX/share` has it: the man pages
//! of section 8 and the completions of the shells.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use macfence::cli::Cli;

/// What macfence(8) says beside what the command line's definition does.
const MORE: &str = include_str!("man/macfence.8.more");

fn main() -> Result<()> {
    let share = PathBuf::from(env::args_os().nth(1).context("usage: generate DIRECTORY")?);
    // `help` of each subcommand is no page's matter.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let man8 = share.join("man/man8");
    fs::create_dir_all(&man8)?;
    pages(&command, &man8, MORE)?;
    // Where each shell looks, and under which name.
    for (shell, path) in [
        (Shell::Bash, "bash-completion/completions/macfence"),
        (Shell::Zsh, "zsh/site-functions/_macfence"),
        (Shell::Fish, "fish/vendor_completions.d/macfence.fish"),
    ] {
        let path = share.join(path);
        fs::create_dir_all(path.parent().context("no directory")?)?;
        clap_complete::generate(shell, &mut command, "macfence", &mut File::create(path)?);
    }
    Ok(())
}

/// The page of a command and those of its subcommands, each ending with `more`.
fn pages(command: &Command, dir: &Path, more: &str) -> Result<()> {
    let version = concat!("macfence ", env!("CARGO_PKG_VERSION"));
    // An empty date would be left out, and the version printed in its place.
    let page = Man::new(command.clone())
        .section("8")
        .date(" ")
        .source(version);
    let mut file = File::create(dir.join(page.get_filename()))?;
    page.render(&mut file)?;
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
