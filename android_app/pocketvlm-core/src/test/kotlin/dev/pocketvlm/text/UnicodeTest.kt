package dev.pocketvlm.text

import dev.pocketvlm.Case
import dev.pocketvlm.bundle.hexadecimal
import dev.pocketvlm.bundle.parseJson
import dev.pocketvlm.folder
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.security.MessageDigest

class UnicodeTest {
    private val cases = Case(parseJson(folder("cases").resolve("unicode.json").readBytes()))

    @Test
    fun `every code point has the category that the tokenizers library gives it`() {
        assertEquals(cases.text("categories"), digest { point -> name(point) })
        assertNotEquals(cases.text("categories"), digest { point -> if (point == 0x1e4d0) "Lu" else name(point) })
    }

    private fun name(point: Int): String =
        names[Categories.bit(point)] ?: if (Categories.bit(point) and Categories.DIGITS != 0) "digit" else "no"

    private fun digest(name: (Int) -> String): String {
        val digest = MessageDigest.getInstance("SHA-256")
        for (point in 0..Character.MAX_CODE_POINT) if (point !in 0xd800..0xdfff) digest.update(name(point).toByteArray())
        return hexadecimal(digest.digest())
    }

    @Test
    fun `texts are composed as the tokenizers library composes them`() {
        val texts = cases.list("composed").map { (it as List<*>)[0] as String to it[1] as String }
        assertTrue(texts.size > 8000 && texts.count { (text, composed) -> text != composed } > 3000)
        for ((text, composed) in texts) assertEquals(text.map { "%04x".format(it.code) }.toString(), composed, nfc(text))
    }

    @Test
    fun `a mark without end takes no time that grows faster than the text`() {
        val text = "a" + "\u0301\u0323".repeat(200_000)
        assertEquals(text.length - 1, nfc(text).length)
    }

    private val names = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So".split(' ')
        .associateBy { checkNotNull(Categories.mask(it)) }
}
