<#
.SYNOPSIS
  Makes the IIS site in front of Postern: the server farm, the settings of ARR, the site with its certificate, and
  what web.config needs to be unlocked. May be run again.
.PARAMETER Thumbprint
  Of the certificate of the site, in LocalMachine\My.
.PARAMETER Nodes
  Where Postern listens, as address:port.
.EXAMPLE
  .\Install-Site.ps1 -HostName sso.example.com -Thumbprint 0123… -Nodes 10.0.0.11:5080, 10.0.0.12:5080
#>
#Requires -RunAsAdministrator
[CmdletBinding()]
param(
  [Parameter(Mandatory)] [string] $HostName,
  [Parameter(Mandatory)] [string] $Thumbprint,
  [string[]] $Nodes = @('127.0.0.1:5080'),
  [string] $Site = 'Postern',
  [string] $Folder = 'C:\inetpub\Postern',
  [string] $Farm = 'postern'
)
$ErrorActionPreference = 'Stop'
$appcmd = Join-Path $env:windir 'System32\inetsrv\appcmd.exe'

function Invoke-AppCmd {
  $output = & $appcmd @args
  if ($LASTEXITCODE -ne 0) { throw "appcmd $($args -join ' '): $output" }
  $output
}
function Test-AppCmd { & $appcmd @args *> $null; $LASTEXITCODE -eq 0 }

$Thumbprint = $Thumbprint -replace '[^0-9A-Fa-f]'
if (-not (Test-Path "Cert:\LocalMachine\My\$Thumbprint")) { throw "there is no certificate $Thumbprint in LocalMachine\My" }
$modules = Invoke-AppCmd list config /section:system.webServer/globalModules | Out-String
foreach ($module in 'RewriteModule', 'ApplicationRequestRouting') {
  if ($modules -notmatch $module) { throw "IIS has no $module`: install URL Rewrite 2.1 and Application Request Routing 3.0" }
}

# The farm: an address that is there already stays.
$farms = Invoke-AppCmd list config /section:webFarms | Out-String
if ($farms -notmatch "name=`"$Farm`"") { Invoke-AppCmd set config /section:webFarms "/+[name='$Farm']" /commit:apphost }
foreach ($node in $Nodes) {
  $address, $port = $node -split ':'
  if ($farms -match "address=`"$([regex]::Escape($address))`"") { continue }
  Invoke-AppCmd set config /section:webFarms "/+[name='$Farm'].[address='$address']" /commit:apphost
  Invoke-AppCmd set config /section:webFarms "/[name='$Farm'].[address='$address'].applicationRequestRouting.httpPort:$port" /commit:apphost
}

# Postern prints the right addresses itself. Rewritten by ARR, a redirect to an application would come back to us.
Invoke-AppCmd set config /section:webFarms "/[name='$Farm'].applicationRequestRouting.protocol.reverseRewriteHostInResponseHeaders:false" /commit:apphost
Invoke-AppCmd set config /section:webFarms "/[name='$Farm'].applicationRequestRouting.protocol.preserveHostHeader:true" /commit:apphost
Invoke-AppCmd set config /section:system.webServer/proxy /enabled:true /preserveHostHeader:true /reverseRewriteHostInResponseHeaders:false /commit:apphost

# What the rule in web.config may set.
$allowed = Invoke-AppCmd list config /section:system.webServer/rewrite/allowedServerVariables | Out-String
foreach ($name in 'HTTP_X_FORWARDED_HOST', 'HTTP_X_FORWARDED_PROTO', 'HTTP_X_REMOTE_USER', 'HTTP_X_REMOTE_SECRET', 'HTTP_TRACEPARENT') {
  if ($allowed -notmatch $name) {
    Invoke-AppCmd set config /section:system.webServer/rewrite/allowedServerVariables "/+[name='$name']" /commit:apphost
  }
}
# Locked by IIS: without this it answers 500.19 to web.config, and to that of WinLogin.
foreach ($section in 'anonymousAuthentication', 'windowsAuthentication') {
  Invoke-AppCmd unlock config "/section:system.webServer/security/authentication/$section"
}

# The site. Its pool runs no code, and never goes to sleep.
New-Item -ItemType Directory -Force $Folder | Out-Null
$configuration = (Get-Content -Raw (Join-Path $PSScriptRoot 'web.config')).Replace('https://sso.example.com', "https://$HostName").Replace('http://postern{', "http://$Farm{")
[IO.File]::WriteAllText((Join-Path $Folder 'web.config'), $configuration)
if (-not (Test-AppCmd list apppool $Site)) { Invoke-AppCmd add apppool "/name:$Site" /managedRuntimeVersion: }
Invoke-AppCmd set apppool $Site /startMode:AlwaysRunning /processModel.idleTimeout:00:00:00
if (-not (Test-AppCmd list site $Site)) {
  # Only under its name: requests for any other never come here.
  Invoke-AppCmd add site "/name:$Site" "/physicalPath:$Folder" "/bindings:http/*:80:$HostName,https/*:443:$HostName"
  Invoke-AppCmd set site $Site "/bindings.[protocol='https',bindingInformation='*:443:$HostName'].sslFlags:1"
}
Invoke-AppCmd set app "$Site/" "/applicationPool:$Site"
& netsh http delete sslcert "hostnameport=${HostName}:443" | Out-Null
& netsh http add sslcert "hostnameport=${HostName}:443" "certhash=$Thumbprint" 'appid={5c1b9a52-5d0c-4c8e-9a0e-5f3b2f6d0a11}' certstorename=MY
if ($LASTEXITCODE -ne 0) { throw 'netsh could not bind the certificate' }
