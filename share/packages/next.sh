# Runs when macfence has been installed for the first time.
echo "macfence: nothing is fenced yet: see man macfence, or /usr/share/doc/macfence/docs/getting-started.md"
