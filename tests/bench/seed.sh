# Does what the script ebtables-kvm of the seed does for the VM $1 of the libvirt $2. Written in sh
# without sudo, because Ruby and sudo would take longer.
ports=$(ls -d /sys/class/net/*/brport)
virsh -q -c "$2" dumpxml "$1" |
sed -n "/<interface/,/<\/interface>/s/.*<\(mac address\|target dev\)='\([^']*\)'.*/\2/p" |
while read -r mac && read -r port; do
  case $ports in */"$port"/brport*)
    ebtables -A FORWARD -s ! "${mac%:*}:00/ff:ff:ff:ff:ff:00" -o "$port" -j DROP &&
    ebtables -A FORWARD -s ! "$mac" -i "$port" -j DROP || exit
  esac
done
