# Runs before macfence is removed from a host. Nothing here may fail, because the package would then stay
# half removed.
if [ -d /run/systemd/system ]; then
  systemctl --quiet disable --now macfence.service macfence-sync.service macfence-metrics.timer || :
fi
# With a hook that does not find its program, libvirt and Xen start no VM.
if grep -qs macfence /etc/libvirt/hooks/qemu /etc/libvirt/hooks/lxc /etc/libvirt/hooks/*.d/macfence; then
  macfence install-hook libvirt --remove || :
fi
if [ -e /etc/xen/scripts/vif-post.d/macfence.hook ] || [ -e /etc/xen/scripts/vif-macfence ]; then
  macfence install-hook xen --remove || :
fi
if grep -qs 'exec macfence' /etc/xen/scripts/vif-post.d/macfence.hook; then
  echo "macfence: warning: Xen starts no domain until you delete /etc/xen/scripts/vif-post.d/macfence.hook"
fi
# What --remove leaves of it only calls vif-bridge.
if grep -qs 'exec macfence' /etc/xen/scripts/vif-macfence; then
  echo "macfence: warning: Xen starts no domain until you run: ln -sf vif-bridge /etc/xen/scripts/vif-macfence"
fi
for hook in /etc/libvirt/hooks/*.d/macfence /etc/libvirt/hooks/qemu /etc/libvirt/hooks/lxc; do
  if cmp -s "$hook" /usr/share/macfence/libvirt/macfence; then
    rm -f "$hook"
    echo "macfence: deleted $hook"
  elif [ -x "$hook" ] && grep -qs macfence "$hook"; then
    echo "macfence: warning: $hook still calls macfence: libvirt starts no VM until you change that"
  fi
done
for hook in /var/tmp/one/vnm/*/post.d/macfence /var/tmp/one/hooks/macfence; do
  [ ! -e "$hook" ] || echo "macfence: warning: $hook still calls macfence: delete OpenNebula's hooks on its front-end"
done
if nft list table bridge macfence >/dev/null 2>&1; then
  echo "macfence: the fences stay in the kernel, but VMs that start from now on are not fenced."
  echo "macfence: to delete the fences: nft delete table bridge macfence"
elif ebtables -L 2>/dev/null | grep -qs macfence-; then
  echo "macfence: the fences stay in ebtables' tables nat and filter, in rules to chains macfence-*,"
  echo "macfence: but VMs that start from now on are not fenced."
fi
