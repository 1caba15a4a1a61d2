<#
.SYNOPSIS
  Writes a certificate of LocalMachine\My with its private key as PEM files, as Postern reads them.
.DESCRIPTION
  Makes <Name>.crt, <Name>.key (encrypted) and <Name>.passphrase in the folder, readable for administrators and the
  account of the service alone. The key must be marked as exportable. PowerShell 7.4 or later.
.EXAMPLE
  .\Export-Certificate.ps1 -Thumbprint 0123… -Folder C:\Postern\certs -Name oidc
#>
#Requires -Version 7.4
#Requires -RunAsAdministrator
[CmdletBinding()]
param(
  [Parameter(Mandatory)] [string] $Thumbprint,
  [Parameter(Mandatory)] [string] $Folder,
  [Parameter(Mandatory)] [string] $Name,
  [string] $Account = 'NT SERVICE\postern'
)
$ErrorActionPreference = 'Stop'
$Thumbprint = $Thumbprint -replace '[^0-9A-Fa-f]'
$certificate = Get-Item "Cert:\LocalMachine\My\$Thumbprint"
$key = [Security.Cryptography.X509Certificates.RSACertificateExtensions]::GetRSAPrivateKey($certificate)
if ($null -eq $key) { throw "the certificate $Thumbprint has no RSA key here" }

$passphrase = [Convert]::ToHexString([Security.Cryptography.RandomNumberGenerator]::GetBytes(32))
$encryption = [Security.Cryptography.PbeParameters]::new('Aes256Cbc', 'SHA256', 100000)
# Encrypted, because a key that may be exported at all may be exported so; in the plain not every one may.
$files = [ordered]@{
  "$Name.key"        = $key.ExportEncryptedPkcs8PrivateKeyPem($passphrase, $encryption) + "`n"
  "$Name.passphrase" = $passphrase
  "$Name.crt"        = $certificate.ExportCertificatePem() + "`n"
}
New-Item -ItemType Directory -Force $Folder | Out-Null
foreach ($file in $files.Keys) {
  $path = Join-Path $Folder $file
  if (Test-Path $path) { throw "$path is there already" }
  New-Item -ItemType File $path | Out-Null
  # S-1-5-32-544: administrators, in every language of Windows. Before anything is in the file.
  & icacls $path /inheritance:r /grant:r '*S-1-5-32-544:F' "${Account}:R" | Out-Null
  if ($LASTEXITCODE -ne 0) { throw "the rights to $path could not be set; is there an account $Account?" }
  [IO.File]::WriteAllText($path, $files[$file])
}
"wrote $($files.Keys -join ', ') in $Folder"
