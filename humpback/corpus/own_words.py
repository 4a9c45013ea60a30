"""What a page's own lines say, by language: what own_lines.py looks for.

Of each language: what a line says and no more ("whole"), how it begins ("begins"; "labels" with a colon behind), what stands before the
name of who wrote it ("by"), the words of dates ("dated"), what such people are ("is", "writers", "lives") or do ("signed"); and patterns
of what the last sentences of a text invite to, or say of where it comes from ("invites"; "inviting" has a word of each); what no text
says of itself ("strong"); the words of buttons to share a page ("share"); headers that call to other pages ("calls"), and how a paragraph
begins that says where a text came out ("origin").
"""

# Who takes pictures, and how that stands behind what is said of one, as patterns.
CREDITS = {
    "in_brackets": r"(?i:\bphotos?\b|\bphotograph|\bimages?\b|\bhandout\b|\bcourtesy\b|\bpicture:|getty|shutterstock|\bistock)"
    r"|, [Ff]ile\b|\bvia (?:AP|AFP|Reuters|REUTERS)\b|\bAP/|/(?:AP|AFP|Reuters|REUTERS)\b",
    "at_end": r"(?:Getty Images|AP Photo|via (?:AP|AFP|Reuters|REUTERS|Getty|Shutterstock)|/ ?(?:AP|AFP|Reuters|REUTERS|Shutterstock|EPA))",
    "agencies": "jiji, jiji press, kyodo, kyodo news, tass, anadolu agency, efe, ansa, the associated press, associated press, "
    "reuters, afp, agence france-presse, pti, ians, ani, xinhua, bloomberg, upi, dpa",
}

OWN_LINES: dict[str, dict[str, str]] = {
    "en": {
        "share": "share tweet submit pin email print save like post send facebook twitter whatsapp linkedin reddit pinterest flipboard "
        "telegram messenger copy link tumblr pocket stumbleupon",
        "calls": "trending news, trending now, must watch, must see, must read, replay, play video, watch live",
        "origin": r"A version of this (?:article|story|post|piece|review)\b|This (?:article|story) (?:appears|appeared) in print|"
        r"(?:This (?:web)?site|We) uses? cookies\b|By continuing to (?:use|browse)\b",
        "whole": "more videos, related videos, recommended videos, related ads, related searches, ad feedback, publish date, "
        "read now, watch here, shop now, now playing, from our sponsors, see all, don't miss, don’t miss, "
        "shutterstock, istock, alamy, flipboard, "
        "social share, advert, text size, order reprints, print article, enlarge image, view image, view this image, sharing is "
        "caring, exclusive, pocket, messenger, sms, rss, email the author, view author archive, get author rss feed, follow on "
        "twitter, share on facebook, share on twitter, copy, permalink, share article, share this article, share this story, save "
        "article, listen to this article, audio, font size, gift article, to read the full story, image, images, photo, photos, "
        "picture, video, gallery, advertisement, ad, share, share this, tweet, pin, pin it, print, email, save, copy link, link "
        "copied, facebook, twitter, whatsapp, linkedin, reddit, pinterest, telegram, read more, more, continue reading, read full "
        "story, show more, load more, view more, see more, view gallery, next, previous, back to top, back, top, menu, close, "
        "skip, loading, subscribe, sign up, sign in, log in, follow, follow us, comments, leave a comment, no comments, comments "
        "are closed, related, related articles, related stories, recommended, sponsored, promoted, toggle caption, hide caption, "
        "enlarge this image, play, listen, watch, download, edit, advertisement continue reading the main story, media playback is "
        "unsupported on your device, story continues below advertisement, article continues below, thank you for subscribing, "
        "thanks for reading, getty images, file photo, image via, print this page, expand, collapse, jump to recipe, print recipe, "
        "pin recipe, table of contents, contents",
        "begins": "latest posts by, posts by, this website uses cookies, this site uses cookies, we use cookies, a version of "
        "this article, this article appears in, order reprints, image copyright, image caption, image source, image credit, image "
        "courtesy, image via, media caption, photo by, photos by, photo credit, photo courtesy, photograph by, photography by, "
        "photo via, picture by, picture credit, images by, image by, illustration by, video by, courtesy of, posted on, posted in, "
        "posted by, published on, published by, filed under, tagged with, tagged under, updated on, last updated, last modified, "
        "first published, originally published, originally posted, originally appeared, this article was originally, this article "
        "originally, this article first, this story was originally, this post was originally, this post may contain affiliate, "
        "this post contains affiliate, this article contains affiliate, this page contains affiliate, we may earn a commission, as "
        "an amazon associate, sign up for, sign up to, sign up now, sign up here, sign me up, subscribe to, subscribe now, "
        "subscribe for, follow us, follow me on, follow him on, follow her on, like us on, join us on, join the conversation, "
        "click here, tap here, read more, read next, read also, read the full, read our, see also, see more, watch now, watch the "
        "video, listen now, continue reading, share this, share on, share via, email this, tweet this, print this, download our, "
        "download the app, get our, get the latest news, get the latest stories, stay tuned, stay up to date, stay connected, "
        "support our, skip to content, skip to main, back to top, view comments, leave a comment, leave a reply, let us know in "
        "the comments, have your say, what do you think, got a tip, have a tip, you may also like, you might also like, more on "
        "this, more from, post comment, chat with us, do you want to be informed, do you want to receive, "
        "learn more at, join our, a post shared by, view this post on, related coverage, "
        "all rights reserved, main article, reprinted with permission, "
        "story highlights",
        "labels": "artist, artwork, art, photo source, image, photo, photos, photograph, picture, pictures, video, credit, "
        "credits, illustration, source, sources, via, related, related article, read more, read next, read, more, see also, main "
        "article, main articles, further information, further reading, watch, listen, also read, also see, recommended, posted, "
        "published, updated, date, author, authors, written by, reporting by, contributing, contributors, tags, tag, category, "
        "categories, topics, related tags, related topics, filed under, share, contact, press contact, media "
        "contact, ftc, stream, listen live, watch live",
        "by": "by, written by, story by, words by, text by, posted by, published by, reviewed by, edited by, reporting by, author, "
        "authors",
        "dated": "january february march april may june july august september october november december jan feb mar apr jun "
        "jul aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur thurs fri "
        "sat sun original written uk us am pm a m p utc gmt est edt cst cdt mst mdt pst pdt et ct pt bst cet cest ist st nd rd th "
        "published updated posted modified created last first on at of the date edited t z",
        "is": "is|was|has been|works as|writes|has covered|covers|has written|reports",
        "lives": r"(?:living|based|residing|who lives) (?:in|near|somewhere)",
        "signed": "has covered|covers|writes (?:about|for|on)|reports (?:on|for|from)|(?:can|may) be reached|contributed",
        "writers": "writer, author, journalist, editor, reporter, columnist, contributor, correspondent, blogger, freelancer, novelist, "
        "co-author, founder, co-founder, professor, lecturer, researcher, fellow, consultant, photographer, intern, producer, historian",
        "strong": r"now playing\W*$|from our sponsors\b|(?:your|my) inbox\b|our newsletters?\b|(?:sign up|"
        r"register) for our|subscribe to (?:our|my)\b|follow (?:us|me) on\b|"
        r"click here to\b|download our [^.]{0,20}app\b|if you buy something through|we (?:may )?(?:earn|receive) [^.]{0,20}commission",
        "inviting": "head questions corrects corrected informed receive delivered issues reached tip income "
        "responsible opinions expressed necessarily medical additional affiliate also app apps article articles "
        "breaking brought check click column comment comments commission contact content contributed coverage creative details "
        "donate editing email essay facebook favorite favourite feedback become consider help here need follow full further image "
        "images inbox information instagram interested interview join latest learn let linkedin listen mail material miss more "
        "news newsletter newsletters opinion originally permission photo photos picture piece post reach read recipes register "
        "report reporting republished rights share sign sponsored stay stories story subscribe support take telegram tell thank "
        "thanks think thoughts tips twitter updates version want watch whatsapp writing youtube",
        "invites": r"here[.!)]*$|head over to|have (?:any )?(?:more |further )?questions\?|"
        r"this (?:version|story|article) (?:corrects|has been corrected)|do you want to (?:be informed|receive)|"
        r"delivered (?:to|through) your (?:door|letterbox|home)|\d+ issues for|(?:can|may) be reached at|have a tip\?|"
        r"we use income.earning|help us (?:to )?(?:continue|keep|improve|spread|grow)|we need your|consider (?:supporting|donating|"
        r"subscribing)|become an? [^.]{0,20}(?:member|patron|supporter|subscriber|author)\b|(?:sign up|register) (?:here|"
        r"now|today|for (?:our|my|the|a free|free|daily|weekly|more|email|updates|alerts|\w+ newsletter)|to (?:our|the|"
        r"get|receive))|subscribe\b|newsletters?\b|click (?:here|on the link)|(?:your|my) inbox|follow (?:us|me|him|her|"
        r"them|@)|(?:us|me|him|her|them|visit \w+) (?:on|via) (?:facebook|twitter|instagram|linkedin|youtube|telegram|"
        r"whatsapp)|on (?:facebook|twitter|instagram|linkedin|youtube)\b[^.]{0,30}(?:facebook|twitter|instagram|linkedin|"
        r"youtube)|follow [^.]{1,40} on (?:facebook|twitter|instagram)|a version of th(?:is|e) (?:article|story|post)|"
        r"what(?:[’']s| is| are) your (?:favou?rite|thoughts|take|opinion)|download (?:the|our) [^.]*\bapps?\b|"
        r"read (?:our|more|next|also|the (?:full|original|rest|whole))\b|check out (?:our|the|my|his|her|their|some|more|"
        r"these|this)\b|for (?:more|further|the latest|additional|full) (?:information|details|news|stories|tips|recipes|"
        r"on|about|updates|articles|coverage|breaking)\b|(?:learn|find out|see|discover) more\b|more information (?:on|"
        r"about|is|can)\b|see also\b|listen to (?:the|our)\b|watch (?:the (?:video|full)|our|live|more)\b|affiliate\b|"
        r"brought to you by|sponsored (?:by|post|content)|contributed to th(?:is|e) (?:report|story|article)|"
        r"(?:additional )?(?:reporting|editing|writing) by\b|contact (?:us|the author|me|him|her)\b|(?:reach|"
        r"e-?mail) (?:him|her|me|us|the author)\b|(?:let|tell) (?:us|me) (?:know|what|about|in)\b|in the comments?\b|"
        r"comments? (?:below|section)|what do you think|share (?:your|this|it) (?:thoughts|experience|story|article|post|"
        r"opinion|comments?|with)|join (?:us|our|the (?:conversation|discussion|debate))\b|stay (?:tuned|up to date|"
        r"up-to-date|connected|informed)|support (?:us\b|our (?:work|journalism))|donate (?:now|here|today|to)|"
        r"this (?:article|story|post|piece|report|interview|column|essay|content|material|blog post) (?:was|is|has been|"
        r"first|originally|appeared|appears|may)\b|republished|(?:reprinted|used|reproduced) (?:with|"
        r"by) (?:kind )?permission|creative commons|all rights reserved|thanks? (?:you )?for (?:reading|watching|"
        r"visiting)|your feedback|don[’']t miss\b|get (?:the latest|our|more (?:news|stories))\b|want (?:more|to (?:know|"
        r"learn|read|see) more)\b|you (?:may|might) also (?:like|want|be interested)|interested in (?:more|learning|"
        r"reading)|(?:earn|receive) (?:a|an) (?:\w+ )?commission|(?:feature|featured|header|lead|main|cover) (?:image|"
        r"photo|picture)|(?:image|photo)s? (?:credit|courtesy|by|via)\b|originally published|not responsible for|(?:views|"
        r"opinions) expressed|do(?:es)? not (?:necessarily (?:reflect|represent)|provide medical)",
    },
    "de": {
        "whole": "bild, foto, anzeige, werbung, teilen, drucken, weiterlesen, mehr lesen, mehr, zurück, nach oben, menü, schließen, "
        "kommentare, keine kommentare, abonnieren, anmelden, merken, inhaltsverzeichnis, bilderstrecke, bildergalerie, video",
        "begins": "foto von, bild von, veröffentlicht am, veröffentlicht in, aktualisiert am, zuletzt aktualisiert, zuletzt geändert, "
        "erschienen am, hier klicken, klicken sie hier, jetzt abonnieren, newsletter abonnieren, folgen sie uns, folge uns, "
        "lesen sie auch, lesen sie mehr, mehr zum thema, das könnte sie auch interessieren, das könnte dich auch interessieren, "
        "teilen auf, hauptartikel, zum inhalt, melden sie sich, jetzt anmelden, alle rechte vorbehalten",
        "labels": "bild, foto, fotos, bildquelle, bildnachweis, quelle, quellen, hauptartikel, siehe auch, lesen sie auch, lesetipp, mehr "
        "dazu, autor, autorin, text, von, stand, datum, schlagwörter, kategorie, kategorien, tags, kontakt, pressekontakt, "
        "veröffentlicht, aktualisiert",
        "by": "von, text von, ein beitrag von, autor, autorin, geschrieben von",
        "dated": "januar februar märz april mai juni juli august september oktober november dezember jan feb mär apr jun jul aug sep "
        "sept okt nov dez montag dienstag mittwoch donnerstag freitag samstag sonnabend sonntag mo di mi do fr sa so uhr um am "
        "den vom stand veröffentlicht aktualisiert erstellt datum zuletzt geändert",
        "is": "ist|war|arbeitet als|schreibt",
        "writers": "autor, autorin, journalist, journalistin, redakteur, redakteurin, schriftsteller, schriftstellerin, reporter, "
        "professor, professorin, blogger, bloggerin, Autor, Autorin, Journalist, Journalistin, Redakteur, Redakteurin, "
        "Professor, Professorin",
        "invites": r"newsletter\b|hier klicken|klicken sie hier|jetzt (?:abonnieren|anmelden|bestellen|registrieren)|folgen sie|"
        r"folge (?:uns|mir)|lesen sie (?:auch|hier|mehr)|weitere informationen|mehr (?:zum thema|informationen|dazu)|"
        r"in den kommentaren|schreib(?:en sie|t) (?:uns|mir)|dieser (?:artikel|beitrag|text) (?:ist|wurde|erschien)|"
        r"alle rechte vorbehalten|mit material von|\((?:dpa|afp|ap|reuters)",
    },
    "fr": {
        "whole": "image, photo, publicité, partager, imprimer, lire la suite, lire plus, suite, retour, haut de page, menu, fermer, "
        "commentaires, aucun commentaire, s'abonner, s'inscrire, se connecter, sommaire",
        "begins": "photo de, crédit photo, crédits photo, publié le, publié par, mis à jour le, modifié le, cliquez ici, abonnez-vous, "
        "inscrivez-vous, suivez-nous, lire aussi, lire la suite, à lire aussi, partager sur, article détaillé, tous droits "
        "réservés",
        "labels": "photo, image, crédit, crédits, crédit photo, source, sources, article détaillé, articles détaillés, voir aussi, lire "
        "aussi, à lire, auteur, auteurs, publié, mis à jour, mots-clés, catégorie, catégories, contact, contact presse",
        "by": "par, écrit par, publié par, texte de, auteur",
        "dated": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre lundi mardi mercredi jeudi "
        "vendredi samedi dimanche le à h mis jour publié modifié date er",
        "is": "est|était|travaille comme|écrit",
        "writers": "auteur, auteure, autrice, journaliste, rédacteur, rédactrice, écrivain, écrivaine, professeur, professeure, "
        "chroniqueur",
        "invites": r"newsletter\b|cliquez ici|abonnez-vous|inscrivez-vous|suivez-nous|lire (?:aussi|la suite)|pour en savoir plus|"
        r"plus d[’']informations|en commentaire|dites-nous|cet article (?:est|a été)|tous droits réservés|\(avec afp",
    },
    "es": {
        "whole": "imagen, foto, publicidad, compartir, imprimir, leer más, seguir leyendo, más, volver, arriba, menú, cerrar, "
        "comentarios, sin comentarios, suscribirse, suscríbete, iniciar sesión, índice",
        "begins": "foto de, crédito de la foto, publicado el, publicado por, actualizado el, haz clic aquí, haga clic aquí, suscríbete, "
        "síguenos, lea también, lee también, leer más, te puede interesar, compartir en, artículo principal, todos los derechos "
        "reservados",
        "labels": "foto, imagen, crédito, créditos, fuente, fuentes, artículo principal, véase también, lea también, lee también, autor, "
        "autora, publicado, actualizado, etiquetas, categoría, categorías, contacto",
        "by": "por, escrito por, publicado por, texto de, autor, autora",
        "dated": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre lunes martes miércoles jueves "
        "viernes sábado domingo de del el a las h hs hrs actualizado publicado fecha",
        "is": "es|fue|trabaja como|escribe",
        "writers": "autor, autora, periodista, escritor, escritora, editor, editora, redactor, redactora, profesor, profesora, columnista",
        "invites": r"newsletter\b|boletín\b|haz clic|haga clic|suscríbete|síguenos|le[ea] también|para más información|"
        r"más información|en los comentarios|cuéntanos|este artículo (?:es|fue|ha sido)|todos los derechos reservados",
    },
    "it": {
        "whole": "immagine, foto, pubblicità, condividi, stampa, leggi tutto, continua a leggere, altro, indietro, menu, chiudi, "
        "commenti, nessun commento, iscriviti, accedi, indice",
        "begins": "foto di, pubblicato il, pubblicato da, aggiornato il, clicca qui, iscriviti, seguici, leggi anche, leggi tutto, "
        "continua a leggere, potrebbe interessarti, condividi su, voce principale, lo stesso argomento in dettaglio, tutti i "
        "diritti riservati",
        "labels": "foto, immagine, crediti, fonte, fonti, voce principale, vedi anche, leggi anche, autore, autrice, pubblicato, "
        "aggiornato, tag, categoria, categorie, contatti",
        "by": "di, scritto da, pubblicato da, a cura di, testo di, autore, autrice",
        "dated": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre lunedì martedì mercoledì "
        "giovedì venerdì sabato domenica il alle ore pubblicato aggiornato data",
        "is": "è|era|lavora come|scrive",
        "writers": "autore, autrice, giornalista, scrittore, scrittrice, redattore, redattrice, professore, professoressa",
        "invites": r"newsletter\b|clicca qui|iscriviti|seguici|leggi anche|per (?:maggiori|ulteriori) informazioni|nei commenti|"
        r"questo articolo (?:è|fu)|tutti i diritti riservati",
    },
    "pt": {
        "whole": "imagem, foto, publicidade, compartilhar, partilhar, imprimir, leia mais, continue lendo, mais, voltar, menu, fechar, "
        "comentários, nenhum comentário, inscreva-se, entrar, sumário",
        "begins": "foto de, publicado em, publicado por, atualizado em, clique aqui, inscreva-se, siga-nos, leia também, leia mais, "
        "continue lendo, você também pode gostar, compartilhe, artigo principal, ver artigo principal, todos os direitos "
        "reservados",
        "labels": "foto, imagem, crédito, créditos, fonte, fontes, artigo principal, ver também, veja também, leia também, autor, autora, "
        "publicado, atualizado, etiquetas, categoria, categorias, contato",
        "by": "por, escrito por, publicado por, texto de, autor, autora",
        "dated": "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro segunda terça quarta quinta "
        "sexta feira sábado domingo de às h em publicado atualizado data",
        "is": "é|foi|trabalha como|escreve",
        "writers": "autor, autora, jornalista, escritor, escritora, editor, editora, redator, redatora, professor, professora, colunista",
        "invites": r"newsletter\b|clique aqui|inscreva-se|siga-nos|leia (?:também|mais)|para mais informações|mais informações|"
        r"nos comentários|este artigo (?:é|foi)|todos os direitos reservados",
    },
    "nl": {
        "whole": "afbeelding, beeld, foto, advertentie, delen, deel, printen, lees meer, lees verder, meer, terug, menu, sluiten, "
        "reacties, geen reacties, abonneren, aanmelden, inloggen, inhoudsopgave",
        "begins": "foto door, beeld door, gepubliceerd op, geplaatst op, bijgewerkt op, laatst bijgewerkt, klik hier, abonneer, volg ons, "
        "lees ook, lees meer, lees verder, deel dit, deel op, hoofdartikel, zie hoofdartikel, meld je aan, alle rechten "
        "voorbehouden",
        "labels": "foto, beeld, afbeelding, bron, bronnen, hoofdartikel, zie ook, lees ook, auteur, auteurs, gepubliceerd, bijgewerkt, "
        "trefwoorden, categorie, categorieën, contact",
        "by": "door, geschreven door, tekst door, auteur",
        "dated": "januari februari maart april mei juni juli augustus september oktober november december maandag dinsdag woensdag "
        "donderdag vrijdag zaterdag zondag om uur op gepubliceerd geplaatst bijgewerkt laatst datum",
        "is": "is|was|werkt als|schrijft",
        "writers": "auteur, journalist, journaliste, schrijver, schrijfster, redacteur, hoogleraar, columnist",
        "invites": r"nieuwsbrief\b|klik hier|abonneer|volg ons|lees (?:ook|meer|verder)|meer informatie|in de reacties|"
        r"laat (?:het )?(?:ons|me) weten|dit artikel (?:is|was|verscheen)|alle rechten voorbehouden",
    },
}  # fmt: skip
