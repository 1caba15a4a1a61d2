<%@ WebHandler Language="C#" Class="Postern.WinLogin" %>
// Says who the browser is: IIS has authenticated it before this runs, and this signs the name and the security
// identifier, and has the browser post them to Postern. C# 5, as ASP.NET 4.x compiles it. README.md sets it up.
using System;
using System.Configuration;
using System.IO;
using System.Security.Cryptography;
using System.Security.Principal;
using System.Text;
using System.Text.RegularExpressions;
using System.Web;

namespace Postern
{
    public class WinLogin : IHttpHandler
    {
        const string Script = "document.forms[0].submit()";

        public bool IsReusable { get { return true; } }

        public void ProcessRequest(HttpContext context)
        {
            // Of several, the first is Postern's; what follows it is the request of the application.
            string[] attempts = context.Request.Unvalidated.QueryString.GetValues("attempt");
            string attempt = attempts == null ? "" : attempts[0];
            var user = context.User == null ? null : context.User.Identity as WindowsIdentity;
            Uri postern;
            string secret;
            if (!Regex.IsMatch(attempt, @"\A[A-Za-z0-9_-]{43}\z"))
                Refuse(context, 400, "This page works only on the way from the sign-in; go back to the application.");
            else if (user == null || !user.IsAuthenticated || user.IsAnonymous || user.IsGuest || user.User == null)
                Refuse(context, 403, "Windows has not said who you are. Is anonymous authentication off, and Windows on?");
            else if (!Uri.TryCreate(ConfigurationManager.AppSettings["PosternUrl"], UriKind.Absolute, out postern))
                Refuse(context, 500, "PosternUrl in web.config is not a URL.");
            else if ((secret = ReadSecret(ConfigurationManager.AppSettings["SecretFile"])) == null)
                Refuse(context, 500, "The file that SecretFile in web.config names cannot be read by the application pool.");
            else if (secret.Length < 32)
                Refuse(context, 500, "The secret in the file that SecretFile in web.config names is shorter than 32 characters.");
            else
                Answer(context, postern, MakeTicket(user.Name, user.User.Value, attempt, DateTime.UtcNow, secret));
        }

        /// <summary>The claims as JSON in base64url, a dot, and their HMAC-SHA256 in base64url.</summary>
        public static string MakeTicket(string name, string sid, string attempt, DateTime time, string secret)
        {
            long seconds = (long)(time - new DateTime(1970, 1, 1, 0, 0, 0, DateTimeKind.Utc)).TotalSeconds;
            string json = string.Format("{{\"name\":{0},\"sid\":{1},\"attempt\":{2},\"time\":{3}}}",
                Quote(name), Quote(sid), Quote(attempt), seconds);
            string text = ToBase64Url(Encoding.UTF8.GetBytes(json));
            using (var hmac = new HMACSHA256(Encoding.UTF8.GetBytes(secret)))
                return text + "." + ToBase64Url(hmac.ComputeHash(Encoding.UTF8.GetBytes(text)));
        }

        static string Quote(string text) { return HttpUtility.JavaScriptStringEncode(text, true); }

        static string ToBase64Url(byte[] bytes)
        {
            return Convert.ToBase64String(bytes).TrimEnd('=').Replace('+', '-').Replace('/', '_');
        }

        /// <summary>Read at every request: a new secret needs no restart. Null where there is none.</summary>
        static string ReadSecret(string file)
        {
            try { return File.ReadAllText(file, Encoding.UTF8).TrimEnd('\r', '\n'); }
            catch (Exception) { return null; }
        }

        static void Answer(HttpContext context, Uri postern, string ticket)
        {
            string hash;
            using (var sha = SHA256.Create())
                hash = Convert.ToBase64String(sha.ComputeHash(Encoding.UTF8.GetBytes(Script)));
            Send(context, 200, string.Format("<form method=\"post\" action=\"{0}\"><input type=\"hidden\" name=\"ticket\""
                + " value=\"{1}\"><button>Continue</button></form><script>{2}</script>",
                HttpUtility.HtmlAttributeEncode(postern.AbsoluteUri), HttpUtility.HtmlAttributeEncode(ticket), Script),
                "script-src 'sha256-" + hash + "'; form-action 'self' " + postern.GetLeftPart(UriPartial.Authority));
        }

        static void Refuse(HttpContext context, int status, string message)
        {
            Send(context, status, "<p>" + HttpUtility.HtmlEncode(message) + "</p>", "form-action 'none'");
        }

        static void Send(HttpContext context, int status, string body, string policy)
        {
            HttpResponse response = context.Response;
            response.StatusCode = status;
            response.TrySkipIisCustomErrors = true;
            response.ContentType = "text/html; charset=utf-8";
            response.AppendHeader("Cache-Control", "no-store");
            response.AppendHeader("X-Content-Type-Options", "nosniff");
            response.AppendHeader("Content-Security-Policy",
                "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; " + policy);
            response.Write("<!doctype html><html lang=\"en\"><title>Windows sign-in</title>" + body + "</html>");
        }
    }
}
