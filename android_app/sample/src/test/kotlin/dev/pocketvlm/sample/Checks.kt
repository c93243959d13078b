package dev.pocketvlm.sample

import android.app.Activity
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Rect
import android.view.View
import android.widget.EditText
import android.widget.ProgressBar
import android.widget.TextView
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import java.io.File
import kotlin.math.abs

private val KEPT = File(checkNotNull(System.getProperty("basedir")), "src/test/screenshots") // Surefire says where
private val DRAWN = File(checkNotNull(System.getProperty("screenshots")))

/** Of 1,000 pixels so many may have another colour: text is drawn alike everywhere, scaled pictures nearly. */
private const val TOLERANCE = 1.0

/** Levels of 255 that make another colour. */
private const val LEVELS = 32
private const val TARGET_DP = 48

/** What each screen must be: usable by finger and by ear, clear of the bars, and as it looked when somebody saw it. */
internal fun Phone.check(name: String, isStill: Boolean = true) {
    if (isStill) idle()
    layOut(activity.window.decorView)
    assertTrue("$name: nothing is shown", shownViews(activity.window.decorView).count { it is TextView } > 1)
    assertEquals(name, emptyList<String>(), faultsForFingersAndEars(activity.window.decorView))
    assertEquals(name, emptyList<String>(), faultsUnderBars(activity, bars))
    hold(name, draw(activity))
}

/** Buttons that say nothing or are smaller than a finger. */
internal fun faultsForFingersAndEars(root: View): List<String> {
    val target = (TARGET_DP * root.resources.displayMetrics.density).toInt()
    return shownViews(root).filter { it.isClickable }.flatMap { view ->
        val node = view.createAccessibilityNodeInfo()
        val labels = listOf(node.text, node.contentDescription, node.hintText)
        val isLabelled = labels.any { !it.isNullOrBlank() } || isLabelledByAnother(root, view)
        listOfNotNull(
            "${nameOf(view)} says nothing".takeIf { !isLabelled },
            "${nameOf(view)} is ${view.width} x ${view.height}, a finger needs $target".takeIf {
                (view.width < target || view.height < target) && !isSelectable(view)
            },
        )
    }
}

/** Text to read, which takes touches so that it can be copied. */
private fun isSelectable(view: View) = view is TextView && view !is EditText && view.isTextSelectable

private fun isLabelledByAnother(root: View, view: View) =
    view.id != View.NO_ID && shownViews(root).any { it.labelFor == view.id && it is TextView && it.text.isNotBlank() }

/** Views with something on them that reach under a bar, so that they can be seen only in part. */
internal fun faultsUnderBars(activity: Activity, bars: Rect): List<String> {
    val decor = activity.window.decorView
    val clear = Rect(bars.left, bars.top, decor.width - bars.right, decor.height - bars.bottom)
    return shownViews(decor).filter { it is TextView || it is TilesView || it.isClickable }.mapNotNull { view ->
        val seen = Rect() // without what is scrolled away
        if (!view.getGlobalVisibleRect(seen) || clear.contains(seen)) null else "${nameOf(view)} at $seen is under a bar"
    }
}

/** The window as it is on the screen, at half its size. Numbers that differ from run to run become 0. */
internal fun draw(activity: Activity): Bitmap {
    val decor = activity.window.decorView
    for (view in shownViews(decor)) if (view is TextView && nameOf(view) in CHANGING) {
        view.text = view.text.replace(Regex("""[0-9٠-٩]+([.,٫٬][0-9٠-٩]+)*"""), "0").replace(Regex("\\b[kMG]?B\\b"), "MB")
    }
    for (view in shownViews(decor)) if (view is ProgressBar && !view.isIndeterminate) view.progress = view.max / 2
    val pushed = decor.findViewById<TextView>(R.id.no_bundle_what)
    pushed?.text = pushed?.text?.replace(Regex("/\\S+"), "/sdcard/Android/data/dev.pocketvlm.sample/files/bundles")
    layOut(decor)
    val bitmap = Bitmap.createBitmap(decor.width / 2, decor.height / 2, Bitmap.Config.ARGB_8888)
    Canvas(bitmap).apply { scale(0.5f, 0.5f) }.let(decor::draw)
    return bitmap
}

private val CHANGING = setOf("message_line", "statistic_value", "attachment_state", "work_text")

internal fun layOut(decor: View) {
    decor.forceLayout()
    decor.measure(exactly(decor.width), exactly(decor.height))
    decor.layout(0, 0, decor.width, decor.height)
}

private fun exactly(size: Int) = View.MeasureSpec.makeMeasureSpec(size, View.MeasureSpec.EXACTLY)

/** Compares with the screenshot that was looked at and kept; what was drawn is left in DRAWN. */
private fun hold(name: String, drawn: Bitmap) {
    DRAWN.mkdirs()
    DRAWN.resolve("$name.png").outputStream().use { drawn.compress(Bitmap.CompressFormat.PNG, 100, it) }
    if (System.getProperty("keep") != null) return // all are drawn, to be looked at
    val kept = BitmapFactory.decodeFile(KEPT.resolve("$name.png").path)
    assertTrue("$name.png is not kept: look at the one in $DRAWN, then copy it to $KEPT", kept != null)
    val different = differing(kept, drawn)
    assertTrue("$name: $different of 1,000 pixels differ; look at the one in $DRAWN", different <= TOLERANCE)
}

/** Pixels of 1,000 that have another colour; all of them where the sizes differ. */
internal fun differing(one: Bitmap, other: Bitmap): Double {
    if (one.width != other.width || one.height != other.height) return 1000.0
    var count = 0
    for (y in 0 until one.height) for (x in 0 until one.width) {
        val a = one.getPixel(x, y)
        val b = other.getPixel(x, y)
        val far = maxOf(
            abs(Color.red(a) - Color.red(b)),
            abs(Color.green(a) - Color.green(b)),
            abs(Color.blue(a) - Color.blue(b)),
        )
        if (far > LEVELS) count++
    }
    return 1000.0 * count / (one.width * one.height)
}

internal fun isAsKept(drawn: Bitmap, again: Bitmap): Boolean = differing(drawn, again) <= TOLERANCE
