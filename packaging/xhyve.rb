# Homebrew's formula, for a tap. It builds the head of the repository that HOMEBREW_XHYVE_GIT names; docs/macos.md says how.
class Xhyve < Formula
  desc "Small hypervisor: boots an unmodified operating system in one process"
  license "BSD-2-Clause"
  head ENV.fetch("HOMEBREW_XHYVE_GIT", "file:///nowhere/say/HOMEBREW_XHYVE_GIT"), using: :git, branch: "main"

  depends_on "meson" => :build
  depends_on "ninja" => :build
  depends_on "pkg-config" => :build
  depends_on "libslirp"
  depends_on "lz4"
  depends_on macos: :catalina
  depends_on "xz"
  depends_on "zstd"
  depends_on "zydis"

  def install
    system "meson", "setup", "build", "-Dtests=false", *std_meson_args
    system "meson", "compile", "-C", "build", "--verbose"
    system "meson", "install", "-C", "build"
  end

  # Homebrew signs what it has relocated anew, without entitlements.
  def post_install
    entitlements = Tempfile.new("xhyve")
    entitlements.write <<~XML
      <?xml version="1.0" encoding="UTF-8"?>
      <!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
      <plist version="1.0"><dict><key>com.apple.security.hypervisor</key><true/></dict></plist>
    XML
    entitlements.close
    system "codesign", "--force", "--sign", "-", "--entitlements", entitlements.path, bin/"xhyve"
  end

  def caveats
    <<~EOS
      On Apple silicon there is no accelerator for x86-64 guests: -a soft interprets them.
      vmnet networks need root; user, the default, does not.
    EOS
  end

  test do
    assert_match "soft", shell_output("#{bin}/xhyve -v")
  end
end
